"""RefCOCO, RefCOCO+ and RefCOCOg: find what an expression refers to; right where the box's IoU exceeds 0.5.

Data files, told apart by their fields:

- MiniGPT-v2's and XTuner's JSON list: img_id, sents, bbox [left, top, width, height], width, height;
- Shikra's JSON Lines: img_path, expression, bbox [left, top, right, bottom];
- Qwen-VL's JSON Lines: image, sent, bbox [left, top, right, bottom], width, height.

Boxes are in pixels there. Sources: https://arxiv.org/abs/1608.00272; https://github.com/InternLM/xtuner,
xtuner/dataset/refcoco_json.py; https://github.com/Vision-CAIR/MiniGPT-4, eval_scripts/eval_ref.py;
https://github.com/shikras/shikra, mllm/dataset/single_image_dataset/rec.py; https://github.com/QwenLM/Qwen-VL,
eval_mm/evaluate_grounding.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlmtool.data.picture_file import open_header
from vlmtool.evaluation.files.json_files import field_of, read_json, read_json_lines
from vlmtool.evaluation.files.llava_files import data_file, entries_of, picture_folder
from vlmtool.evaluation.question_benchmark import QuestionBenchmark
from vlmtool.evaluation.questions import Judged, Question, Verdict, mean
from vlmtool.evaluation.reading.boxes import FORMS, Size, is_box
from vlmtool.utils.errors import DataError
from vlmtool.utils.files import write_json

THRESHOLD = 0.5
FIELDS = {"img_id": "sents", "img_path": "expression", "image": "sent"}  # picture and expression, by kind of file
PICTURES = ("images", "train2014", "coco/train2014", "train2017", "coco/train2017")


class RefCOCO(QuestionBenchmark):
    """One split of one data set. The extractor says how the model was trained to write boxes; see `boxes.FORMS`."""

    name: ClassVar[str] = "refcoco"
    places: ClassVar[tuple[str, ...]] = tuple(
        f"*refcoco*_{split}.json{line}" for split in ("val", "test*") for line in ("", "l")
    )
    key_fields: ClassVar[tuple[str, ...]] = ("question_id",)
    extractors: ClassVar[tuple[str, ...]] = tuple(FORMS)

    def read(self) -> list[Question]:
        """The questions, in the words that models of the extractor's form are trained with."""
        path = data_file(self.data_path, ("*refcoco*.json", "*refcoco*.jsonl"))
        entries = (
            [(f"{path}:{line}", entry) for line, entry in read_json_lines(path)]
            if path.suffix == ".jsonl"
            else entries_of(read_json(path), path)
        )
        return [self._question(index, where, entry, path.parent) for index, (where, entry) in enumerate(entries)]

    def _question(self, index: int, where: str, entry: Mapping[str, Any], near: Path) -> Question:
        picture_field = next((name for name, words in FIELDS.items() if name in entry and words in entry), None)
        if picture_field is None:
            known = "; ".join(f"{name}, {words}" for name, words in FIELDS.items())
            raise DataError(f"{where}: not a referring expression. It has one of these pairs of fields: {known}.")
        expression = field_of(entry, FIELDS[picture_field], where)
        picture = self._picture(field_of(entry, picture_field, where), near)
        box = entry.get("bbox")
        if not isinstance(box, list) or not is_box(box):
            raise DataError(f"{where}: 'bbox' is not four numbers. Download the file again.")
        left, top, right, bottom = map(float, box)
        if picture_field == "img_id":
            right, bottom = left + right, top + bottom
        if right <= left or bottom <= top:
            raise DataError(f"{where}: the box {box} is empty. Is it in the form of another tool?")
        form = FORMS[self.extractor]
        truth, size = (left, top, right, bottom), _size(entry, picture, where)
        return Question(
            index,
            (str(entry.get("question_id", index)),),
            form.instruction.format(expression.strip()),
            picture,
            (form.write(form.in_frame(truth, size)),),
            str(entry.get("dataset_name", "")),
            {"box": truth, "size": size, "expression": expression},
        )

    def _picture(self, name: str, near: Path) -> Path:
        """COCO's file: 000000581857.jpg or COCO_train2014_000000581857.jpg. MiniGPT-v2 appends the object's number."""
        number = next((part for part in Path(name).stem.split("_") if len(part) == 12 and part.isdecimal()), None)
        files = [Path(name).name] if Path(name).suffix else []
        files += [f"COCO_train2014_{number}.jpg", f"{number}.jpg"] if number else []
        given = self.options.image_folder
        paths = [picture_folder(given, near, PICTURES, file) / file for file in files or [name]]
        return next((path for path in paths if path.is_file()), paths[0])

    def judge(self, question: Question, prediction: str) -> Verdict:
        """Right where the box that was read overlaps the true one by more than half of both together."""
        form = FORMS[self.extractor]
        box = form.read(prediction)
        if box is None:
            return Verdict(None, 0.0)
        overlap = form.iou(box, form.in_frame(question.about["box"], question.about["size"]))
        return Verdict(form.write(box), float(overlap > THRESHOLD))

    def total(self, judged: Judged) -> dict[str, Any]:
        """Accuracy in percent."""
        return {"accuracy": 100 * mean(verdict.credit or 0.0 for _, verdict in judged)}

    def headline(self, scores: Mapping[str, Any]) -> tuple[str, float]:
        """The accuracy."""
        return f"accuracy at IoU > {THRESHOLD}", scores["accuracy"]

    def write_submission(self, predictions: Mapping[int, str], folder: Path) -> Path:
        """`refcoco_answers.json`: a list of id, ans, bbox, height and width. There is no official server."""
        path = folder / "refcoco_answers.json"
        write_json(path, [
            {
                "id": question.key[0], "sents": question.about["expression"],
                "ans": predictions.get(question.index, ""), "bbox": question.about["box"],
                "height": question.about["size"][1], "width": question.about["size"][0],
            }
            for question in self.questions
        ])  # fmt: skip
        return path


def _size(entry: Mapping[str, Any], picture: Path, where: str) -> Size:
    """Width and height in pixels, from the data or else from the picture's header."""
    width, height = entry.get("width"), entry.get("height")
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
        return width, height
    try:
        with open_header(picture) as header:
            return header.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{where}: no width and height, and {picture} cannot tell them ({error}). "
            "Name the pictures' folder: --image-folder DIR."
        ) from error
