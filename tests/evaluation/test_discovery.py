"""`eval all` finds official files at any depth and under any folder's name, and says what it did not take."""

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluation.made_files import draw, write, write_lines
from vlmtool.evaluation.catalog import benchmark_classes
from vlmtool.evaluation.discovery import discover

COLUMNS = ("index", "question", "answer", "image")


def found_below(root: Path) -> list[tuple[str, str]]:
    return [(name, str(path.relative_to(root))) for name, path in discover(benchmark_classes(), root).found]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("textvqa", "tvqa/TextVQA_0.5.1_val.json"),
        ("gqa", "a/b/c/testdev_balanced_questions.json"),
        ("mmvet", "x/mm-vet.json"),
        ("refcoco", "grounding/finetune_refcocog_test.jsonl"),
        ("relative", "bench/qa90_questions.jsonl"),
        ("mmbench", "LMUData/MMBench_DEV_EN.tsv"),
        ("multiple_choice", "LMUData/MMStar.tsv"),
        ("yes_no", "LMUData/HallusionBench.tsv"),
    ],
)
def test_official_names_are_found_in_any_folder(tmp_path, name, file):
    write(tmp_path / file, "[]")
    assert found_below(tmp_path) == [(name, file)]


def test_what_names_do_not_tell_content_does(tmp_path):
    write(tmp_path / "blind" / "val.json", json.dumps([{"image": "VizWiz_val_00000000.jpg", "question": "?"}]))
    write(tmp_path / "other" / "val.json", json.dumps([{"image": "1.jpg", "question": "?"}]))
    write(tmp_path / "school" / "problems.json", "{}")
    write(tmp_path / "school" / "pid_splits.json", "{}")
    write(tmp_path / "sums" / "problems.json", "{}")
    write_lines(tmp_path / "objects" / "deep" / "coco_pope_random.json", {})
    for task in ("existence", "code_reasoning"):
        (tmp_path / "fourteen" / task).mkdir(parents=True)
    assert found_below(tmp_path) == [
        ("mme", "fourteen"), ("pope", "objects/deep"), ("scienceqa", "school/problems.json"),
        ("vizwiz", "blind/val.json"),
    ]  # fmt: skip


def test_tables_are_told_by_their_columns(tmp_path, write_table, question):
    write_table(*question, name="rotated.tsv")
    write_table({}, {"index": "1"}, name="choices.tsv")
    write_table({"answer": "Yes"}, {"index": "1", "answer": "no"}, columns=COLUMNS, name="words.tsv")
    write_table({"answer": "a red dog"}, columns=COLUMNS, name="open.tsv")
    write_table({"answer": ""}, columns=COLUMNS, name="silent.tsv")
    write(tmp_path / "broken.tsv", "index\tquestion\timage\n1\n")
    write_table({}, {}, name="twice.tsv")  # one index: opening it tells
    assert found_below(tmp_path) == [
        ("mmbench", "rotated.tsv"), ("multiple_choice", "choices.tsv"), ("multiple_choice", "twice.tsv"),
        ("yes_no", "words.tsv"),
    ]  # fmt: skip
    odd = discover(benchmark_classes(), tmp_path).unrecognised
    assert [path.name for path in odd] == ["broken.tsv", "open.tsv", "silent.tsv"]


def test_a_folder_is_taken_once_and_results_are_no_data(tmp_path):
    (tmp_path / "MME" / "MME_Benchmark_release_version" / "existence").mkdir(parents=True)
    write(tmp_path / "work" / "metrics.json", "{}")
    write(tmp_path / "work" / "mm-vet.json", "{}")
    (tmp_path / "again").symlink_to(tmp_path)  # a loop
    assert found_below(tmp_path) == [("mme", "MME")]


def test_a_link_leads_to_the_data(tmp_path):
    write(tmp_path / "disk" / "mm-vet.json", "{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "disk")
    assert found_below(tmp_path / "data") == [("mmvet", "linked/mm-vet.json")]


def test_files_called_like_a_benchmark_are_named_unless_they_accompany_one(tmp_path):
    write(tmp_path / "a" / "TextVQA_0.5.1_train.json", "{}")
    write(tmp_path / "a" / "comments.json", "{}")  # not MME
    write(tmp_path / "b" / "testdev_balanced_questions.json", "{}")
    write(tmp_path / "b" / "llava_gqa_testdev_balanced.jsonl", "")
    draw(tmp_path / "b" / "images" / "1.png")
    known = discover(benchmark_classes(), tmp_path)
    assert [path.name for path in known.unrecognised] == ["TextVQA_0.5.1_train.json"]
    assert "gqa" not in known.missing and {"mme", "textvqa"} <= set(known.missing)
    shutil.rmtree(tmp_path / "b")
    assert "gqa" in discover(benchmark_classes(), tmp_path).missing
