"""RefCOCO: boxes in three frames, read out of text, and their overlap counted by hand or pixel by pixel."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.refcoco import RefCOCO
from vlmtool.evaluation.reading.boxes import FORMS, in_percent, in_picture, in_square, iou, read_percent, read_shares
from vlmtool.utils.errors import DataError

SIZE = (400, 200)  # pixels
BOX = (100.0, 50.0, 200.0, 150.0)  # left, top, right, bottom in pixels
MINIGPT = {
    "img_id": "COCO_train2014_000000581857_16", "sents": "the lady", "bbox": [100, 50, 100, 100],
    "width": 400, "height": 200,
}  # fmt: skip
SHIKRA = {"img_path": "COCO_train2014_000000581857.jpg", "expression": "the lady", "bbox": [*BOX]}
QWEN = {
    "image": "data/coco/train2014/COCO_train2014_000000581857.jpg", "sent": "the lady", "bbox": [*BOX],
    "width": 400, "height": 200,
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", SIZE).save(folder / "COCO_train2014_000000581857.jpg")
    return folder


@pytest.fixture
def write(tmp_path: Path):
    def write(*entries: dict, name: str = "refcoco_val.json") -> Path:
        path = tmp_path / name
        lines = name.endswith(".jsonl")
        path.write_text("".join(json.dumps(e) + "\n" for e in entries) if lines else json.dumps(entries))
        return path

    return write


def accuracy(path: Path, pictures: Path, answer: str, extractor: str | None = None) -> float:
    benchmark = RefCOCO(path, Options(image_folder=pictures, extractor=extractor))
    return benchmark.score({0: answer}).scores["accuracy"]


@pytest.mark.parametrize(
    ("entry", "name"), [(MINIGPT, "a.json"), (SHIKRA, "a.jsonl"), (QWEN, "a.jsonl"), (QWEN, "a.json")]
)
def test_every_form_of_file_names_the_same_box(write, pictures, entry, name):
    benchmark = RefCOCO(write(entry, name=name), Options(image_folder=pictures))
    question = benchmark.questions[0]
    assert (question.about["box"], question.about["size"]) == (BOX, SIZE)
    assert question.picture == pictures / "COCO_train2014_000000581857.jpg"
    assert benchmark.prompt(benchmark.samples()[0])[0].content[1] == (
        "\nPlease provide the bounding box coordinate of the region this sentence describes: the lady"
    )


def test_pictures_may_have_cocos_newer_name(write, pictures):
    (pictures / "COCO_train2014_000000581857.jpg").rename(pictures / "000000581857.jpg")
    assert accuracy(write(MINIGPT), pictures, "[0.25, 0.375, 0.5, 0.625]") == 100


# The picture of 400 x 200 is padded to 400 x 400: 100 rows above. Shares of the square: (100, 150, 200, 250) / 400.
@pytest.mark.parametrize(
    ("extractor", "right", "others"),
    [
        (None, "[0.25, 0.375, 0.5, 0.625]", "[0.25,0.25,0.5,0.75]"),
        ("llava", "It is at (0.25,0.375,0.50,0.625).", "{<25><25><50><75>}"),
        ("unpadded", "[0.25,0.25,0.5,0.75]", "[0.25, 0.375, 0.5, 0.625]"),
        ("xtuner", "{<25><25><50><75>}</s>", "[0.25,0.25,0.5,0.75]"),
    ],
)
def test_numbers_count_in_their_own_frame(write, pictures, extractor, right, others):
    assert accuracy(write(MINIGPT), pictures, right, extractor) == 100
    assert accuracy(write(MINIGPT), pictures, others, extractor) == 0


def test_right_means_more_than_half(write, pictures):
    # A box of the same height, shifted right by a share s of its width, overlaps by (1 - s) / (1 + s): 0.5 at s = 1/3.
    path = write({**MINIGPT, "bbox": [0, 0, 300, 200], "width": 400, "height": 200})
    assert accuracy(path, pictures, "[0.249, 0, 0.999, 1]", "unpadded") == 100  # shifted by 99.6 pixels of 300
    assert accuracy(path, pictures, "[0.251, 0, 1.0, 1]", "unpadded") == 0  # 0.499 of both together
    half = write({**MINIGPT, "bbox": [0, 0, 200, 200], "width": 400, "height": 200})
    assert accuracy(half, pictures, "[0, 0, 1, 1]", "unpadded") == 0  # exactly 0.5 is not more


def test_overlap_agrees_with_counted_pixels():
    chance = random.Random(0)
    for _ in range(300):
        first, second = ([sorted(chance.sample(range(12), 2)) for _ in "xy"] for _ in "ab")
        boxes = [(x[0], y[0], x[1], y[1]) for x, y in (first, second)]
        cells = [{(i, j) for i in range(x1, x2) for j in range(y1, y2)} for x1, y1, x2, y2 in boxes]
        wide = [{(i, j) for i in range(x1, x2 + 1) for j in range(y1, y2 + 1)} for x1, y1, x2, y2 in boxes]
        assert iou(*boxes) == pytest.approx(len(cells[0] & cells[1]) / len(cells[0] | cells[1]))
        assert iou(*boxes, unit=1.0) == pytest.approx(len(wide[0] & wide[1]) / len(wide[0] | wide[1]))


def test_a_box_the_wrong_way_round_overlaps_with_nothing():
    for box in ((0.5, 0.5, 0.1, 0.1), (0.3, 0.3, 0.3, 0.3)):
        assert iou(box, (0.0, 0.0, 1.0, 1.0)) == iou(box, box) == 0
    assert FORMS["xtuner"].iou((51, 51, 50, 50), (0, 0, 99, 99)) == 0


def test_frames():
    assert in_picture(BOX, SIZE) == (0.25, 0.25, 0.5, 0.75)
    assert in_square(BOX, SIZE) == (0.25, 0.375, 0.5, 0.625)
    assert in_square((0, 0, 100, 50), (101, 200)) == (49 / 200, 0, 149 / 200, 50 / 200)  # 49.5 columns: rounded down
    assert in_square((0, 0, 50, 100), (200, 101)) == (0, 49 / 200, 50 / 200, 149 / 200)
    assert in_percent((1.99 * 4, 0, 400, 200), SIZE) == (1, 0, 100, 100)  # cut, not rounded


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1,0.2,0.3,0.4]", (0.1, 0.2, 0.3, 0.4)), ("Answer: [0.100, .2, 1., 1].", (0.1, 0.2, 1, 1)),
        ("(0,0,1,1)", (0, 0, 1, 1)), ("[0.1,0.2,0.3]", None), ("[0.1,0.2,0.3,0.4,0.5]", None), ("", None),
        ("[10, 20, 30, 40]", None), ("[-0.1,0.2,0.3,0.4]", None), ("0.1 0.2 0.3 0.4", None),
        ("[0.1,0.2,0.3,0.4] or [0,0,1,1]", None), ("[0.1,0.2,0.3,0.4;0,0,1,1]", None),
        ("[__import__('os'),0,0,1]", None), ("[1e9,0,0,1]", None), (f"[0,0,0,{'9' * 5000}]", None),
    ],
)  # fmt: skip
def test_shares_are_read(text, box):
    assert read_shares(text) == box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("{<12><34><56><78>}", (12, 34, 56, 78)), (" {<12> <34> <56> <78>}</s>", (12, 34, 56, 78)),
        ("{<12><34><56>}", None), ("{<12><34><56><78><9>}", None), ("none", None), (f"1 2 3 {'9' * 5000}", None),
    ],
)  # fmt: skip
def test_percents_are_read_as_xtuner_reads_them(text, box):
    assert read_percent(text) == box


def test_an_answer_without_box_is_wrong_and_counted(write, pictures):
    benchmark = RefCOCO(write(MINIGPT, QWEN), Options(image_folder=pictures))
    scores = benchmark.score({0: "on the left", 1: "[0.25, 0.375, 0.5, 0.625]"})
    assert scores.scores == {"accuracy": 50.0} and scores.counts["answers_unreadable"] == 1
    assert scores.headline == ("accuracy at IoU > 0.5", 50.0)
    assert scores.rows[1]["extracted"] == "[0.250, 0.375, 0.500, 0.625]"


def test_xtuner_is_asked_its_own_way(write, pictures, tmp_path):
    benchmark = RefCOCO(write(MINIGPT), Options(image_folder=pictures, extractor="xtuner"))
    assert benchmark.questions[0].text == "[refer] give me the location of the lady"
    assert benchmark.questions[0].answers == ("{<25><25><50><75>}",)
    entry = json.loads(benchmark.write_submission({0: "{<1><2><3><4>}"}, tmp_path).read_text())[0]
    assert entry["ans"] == "{<1><2><3><4>}" and (entry["width"], entry["height"]) == SIZE


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**MINIGPT, "bbox": [1, 2, 3]}, "question 1: 'bbox' is not four numbers"),
        ({**MINIGPT, "bbox": [1, 2, 3, float("nan")]}, "question 1: 'bbox' is not four numbers"),
        ({**MINIGPT, "bbox": [1, 2, 0, 3]}, "question 1: the box .* is empty"),
        ({**QWEN, "bbox": [100, 50, 40, 60]}, "question 1: the box .* is empty"),
        ({"image": "a.jpg", "question": "Where?"}, "question 1: not a referring expression"),
    ],
)
def test_broken_data_is_named(write, pictures, entry, said):
    with pytest.raises(DataError, match=said):
        RefCOCO(write(entry), Options(image_folder=pictures))


def test_a_size_that_nobody_knows_is_an_error(write, pictures):
    with pytest.raises(DataError, match=r"refcoco.jsonl:1: no width and height.*--image-folder"):
        RefCOCO(write({**SHIKRA, "img_path": "gone.jpg"}, name="refcoco.jsonl"), Options(needs_pictures=False))
