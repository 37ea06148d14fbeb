"""The demo's files: pictures, LLaVA records of both stages, and a test in MMBench's format with its control files."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmtool.demo import texts
from vlmtool.demo.benchmark_files import write_benchmark_files
from vlmtool.demo.drawing import draw, encode_jpeg
from vlmtool.demo.scenes import DIGIT_SHARE, Scene, sample_scene

NUM_SCENES = 5000  # training pictures; the projector's stage sees the first `NUM_PRETRAIN_SCENES` of them
NUM_PRETRAIN_SCENES = 3000
QUESTIONS_PER_SCENE = 3
NUM_VALIDATION_SCENES = 100
CHOICE_SHARE, DESCRIBE_SHARE = 0.85, 0.05  # of the questions in finetune.json; the others are free
PRETRAIN_CHOICE_SHARE = 0.3  # of the records in pretrain.json; the others are captions
Record = dict[str, object]
Turn = tuple[str, str]  # question and answer


@dataclass(frozen=True)
class DemoData:
    """Where `make_data` put everything."""

    image_folder: Path
    pretrain: Path
    finetune: Path
    val: Path
    mmbench: Path
    mmbench_blank: Path
    mmbench_shuffled: Path
    pairs: Path


def data_paths(out_dir: Path) -> DemoData:
    """The files that `make_data` writes into a folder."""
    return DemoData(
        image_folder=out_dir / "images",
        pretrain=out_dir / "pretrain.json",
        finetune=out_dir / "finetune.json",
        val=out_dir / "val.json",
        mmbench=out_dir / "mmbench.tsv",
        mmbench_blank=out_dir / "mmbench_blank.tsv",
        mmbench_shuffled=out_dir / "mmbench_shuffled.tsv",
        pairs=out_dir / "pairs.tsv",
    )


def make_data(out_dir: str | Path, seed: int) -> DemoData:
    """Write the demo's data. The seed changes what is trained on; the test stays the same, so that seeds compare."""
    paths = data_paths(Path(out_dir))
    paths.image_folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 0])
    scenes = _draw_scenes(paths.image_folder, "train", NUM_SCENES, rng)
    unseen = _draw_scenes(paths.image_folder, "val", NUM_VALIDATION_SCENES, rng)
    _write_json(paths.pretrain, _pretrain_records(scenes[:NUM_PRETRAIN_SCENES], rng))
    _write_json(paths.finetune, _question_records(scenes, rng))
    _write_json(paths.val, _question_records(unseen, rng))
    write_benchmark_files(paths.mmbench, paths.mmbench_blank, paths.mmbench_shuffled, paths.pairs)
    example = np.random.default_rng([seed, 1])
    (paths.image_folder / "test.jpg").write_bytes(encode_jpeg(draw(sample_scene(example, held_out=True), example)))
    return paths


def _draw_scenes(folder: Path, prefix: str, count: int, rng: np.random.Generator) -> list[tuple[str, Scene]]:
    """Draw training scenes into JPEG files; each file's name with its scene."""
    scenes = []
    for number in range(count):
        scene = sample_scene(rng, held_out=False, digit_share=DIGIT_SHARE)
        name = f"{prefix}_{number:05d}.jpg"
        (folder / name).write_bytes(encode_jpeg(draw(scene, rng)))
        scenes.append((name, scene))
    return scenes


def _record(identifier: str, image: str, turn: Turn) -> Record:
    """One sample in LLaVA's form, the image in front of the question."""
    question, answer = turn
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": identifier, "image": image, "conversations": turns}


def _pretrain_records(scenes: Sequence[tuple[str, Scene]], rng: np.random.Generator) -> list[Record]:
    """One sample a picture, its caption or a choice: captions alone align what is told, not what can be compared."""
    records = []
    for name, scene in scenes:
        is_choice = rng.random() < PRETRAIN_CHOICE_SHARE
        turn = _choose(scene, texts.sample_attribute(scene, rng), rng) if is_choice else _describe(scene, rng)
        records.append(_record(f"pretrain_{Path(name).stem}", name, turn))
    return records


def _question_records(scenes: Sequence[tuple[str, Scene]], rng: np.random.Generator) -> list[Record]:
    """`QUESTIONS_PER_SCENE` questions on each scene, about different attributes."""
    records = []
    for name, scene in scenes:
        for number, attribute in enumerate(_attributes_to_ask(scene, rng)):
            records.append(_record(f"{Path(name).stem}_{number}", name, _question(scene, attribute, rng)))
    return [records[i] for i in rng.permutation(len(records))]


def _question(scene: Scene, attribute: str, rng: np.random.Generator) -> Turn:
    """A question with its answer: multiple choice, a description or free, by lot."""
    lot = rng.random()
    if lot < CHOICE_SHARE:
        return _choose(scene, attribute, rng)
    if lot < CHOICE_SHARE + DESCRIBE_SHARE:
        return _describe(scene, rng)
    return texts.free_question(attribute, rng), texts.answer_sentence(str(scene.value(attribute)))


def _choose(scene: Scene, attribute: str, rng: np.random.Generator) -> Turn:
    choice = texts.sample_choice(scene, attribute, int(rng.choice([3, 4, 4, 4])), rng)
    return texts.choice_prompt(choice.question, choice.options), choice.letter


def _describe(scene: Scene, rng: np.random.Generator) -> Turn:
    return str(rng.choice(texts.DESCRIBE)), texts.caption(scene)


def _attributes_to_ask(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Different attributes of a scene, those that are learned slowest first: its digit, its object or its colour."""
    asked = [str(a) for a in rng.permutation([a for a in texts.asked_attributes(scene) if a != "digit"])]
    first = str(rng.choice(["object", "colour"]))
    asked.sort(key=lambda attribute: attribute != first)
    digits = ["digit"] if scene.digit else []
    return (digits + asked)[:QUESTIONS_PER_SCENE]


def _write_json(path: Path, records: list[Record]) -> None:
    path.write_text(json.dumps(records, indent=1))


def main() -> None:
    """`python -m vlmtool.demo.data FOLDER [--seed N]`."""
    parser = argparse.ArgumentParser(description="Draw the demo's pictures and write its data.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = make_data(arguments.folder, arguments.seed)
    print(f"Wrote {paths.pretrain}, {paths.finetune}, {paths.val} and {paths.mmbench}.")


if __name__ == "__main__":
    main()
