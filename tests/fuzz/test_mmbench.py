"""Tables of questions of any content: each row is scored or counted, or the file refused; scores are plain counts."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import event, example
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzz.profiles import fuzz, outcome, run_command
from tests.fuzz.strategies import damaged, texts
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mmbench import ABILITIES, MMBench
from vlmtool.evaluation.benchmarks.mmbench_table import read_mmbench
from vlmtool.evaluation.benchmarks.multiple_choice import MultipleChoice
from vlmtool.evaluation.benchmarks.yes_no import YesNo
from vlmtool.utils.errors import VlmtoolError

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split")
Table = list[dict[str, str]]

some_text = texts.filter(str.strip)
odd_cells = texts | st.sampled_from(
    ["0", "1000000", "1.0", "-1", "1e3", "１", "9" * 18, "9" * 19, "9" * 5000, "iVBORw0KGgo="]
)


@st.composite
def sound_tables(draw: DrawFn) -> Table:
    """Questions with their rotations; some lack rotations, their base row or answers, as files from anywhere do."""
    rows: Table = []
    for base in draw(st.lists(st.integers(0, 999_999), min_size=1, max_size=4, unique=True)):
        letters = "ABCD"[: draw(st.integers(2, 4))]
        shared = {
            "question": draw(some_text), "hint": draw(texts), "image": "", "split": draw(st.sampled_from(["dev",
            "test", ""])),
            "category": draw(st.sampled_from(["ocr", "", "[red]x", "nan"])),
            "l2-category": draw(st.sampled_from(["coarse_perception", "logic_reasoning", "own", ""])),
        }  # fmt: skip
        for rotation in draw(st.sets(st.integers(0, len(letters)), min_size=1)):
            options = {letter: draw(some_text) for letter in letters}
            answer = {"answer": draw(st.sampled_from([*letters, *letters, *letters, ""]))}
            rows.append(shared | options | answer | {"index": str(base + rotation * 1_000_000)})
    return draw(st.permutations(rows))


@st.composite
def written(draw: DrawFn, rows: Table) -> bytes:
    out = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    writer = csv.DictWriter(out, COLUMNS, delimiter="\t", lineterminator="\r\n", quoting=quoting, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + out.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def tables_of_any_form(draw: DrawFn) -> Table:
    """Rotations, questions that stand once, or questions whose answer is Yes or No; numbered or named."""
    rows = draw(sound_tables())
    form = draw(st.sampled_from(["rotations", "choices", "yes or no"]))
    if form != "rotations":
        name = draw(st.sampled_from(["{}", "VD_{}"]))
        rows = [row | {"index": name.format(number)} for number, row in enumerate(rows)]
    if form == "yes or no":
        answers = st.sampled_from(["Yes", "no", "NO", ""])
        rows = [{name: text for name, text in row.items() if name not in "ABCD"} for row in rows]
        rows = [row | {"answer": draw(answers)} for row in rows]
    return rows


@st.composite
def spoiled_files(draw: DrawFn, tables: SearchStrategy[Table]) -> bytes:
    rows = draw(tables)
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        row[draw(st.sampled_from(COLUMNS))] = draw(odd_cells)
    return draw(damaged(written(rows)))


def count_rows(data: bytes) -> int:
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    return sum(1 for cells in csv.reader(text, delimiter="\t") if cells) - 1


def chain(length: int) -> bytes:
    """Rows each of which refers to the next one for its picture."""
    rows = [f"{index}\tWhich?\ta\tb\t{index + 1}" for index in range(length)]
    return "\n".join(["index\tquestion\tA\tB\timage", *rows, f"{length}\tWhich?\ta\tb\tAAAA"]).encode()


WHOLE_FILE = ("the file is empty", "a header and no rows", "its answers are Yes and No")
PLACES = ("column", "cells where the header has", "a quote in the row", "not UTF-8", "is a rotation of")


def assert_names_the_place(path: Path, error: VlmtoolError) -> None:
    """The line, and the column unless a whole row is broken; or what is wrong with the file as a whole."""
    message = str(error)
    if not any(text in message for text in WHOLE_FILE):
        assert re.match(rf"{re.escape(str(path))}:[1-9][0-9]*: ", message), message
        assert any(text in message for text in PLACES), message


@example(data=chain(5000), kind=MMBench)
@fuzz(35, data=spoiled_files(tables_of_any_form()), kind=st.sampled_from([MMBench, MultipleChoice, YesNo]))
def test_every_row_is_scored_or_counted_or_the_file_is_refused(folder, data, kind):
    path = folder / "table.tsv"
    path.write_bytes(data)
    benchmark = outcome(lambda: kind(path, Options(needs_pictures=False)))
    if isinstance(benchmark, VlmtoolError):
        event(f"{kind.__name__} refuses")
        assert_names_the_place(path, benchmark)
        return
    event(f"{kind.__name__} scores")
    scores = benchmark.score({sample.index: "A" for sample in benchmark.samples()[1:]})
    counts = scores.counts
    assert len(benchmark.rows) == len(scores.rows) == counts["rows"] == count_rows(data)
    assert counts["rows"] == counts["rows_scored"] + counts["rows_without_answer"]
    assert counts["rows_scored"] == sum(row["hit"] is not None for row in scores.rows)
    assert len({sample.index for sample in benchmark.samples()}) == counts["rows"]
    if kind is MMBench:
        assert counts["questions"] == counts["questions_scored"] + counts["questions_with_unanswered_rows"]


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def count_scores(rows: Table, predictions: dict[int, str]) -> dict[str, dict[str, float]]:
    """The three ways of scoring, counted the long way."""
    judged = [(int(row["index"]), row) for row in rows if row["answer"]]
    if not judged:
        return {}
    right = {index: predictions.get(index) == row["answer"] for index, row in judged}
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(int(row["index"]))
    whole = {base for base, group in groups.items() if base in group and all(index in right for index in group)}

    def by_group(wanted: Callable[[int], bool], is_right: Callable[[int], bool]) -> dict[str, float]:
        names: dict[str, list[bool]] = {}
        for index, row in judged:
            if wanted(index):
                ability = ABILITIES.get(row["l2-category"], row["l2-category"])
                for name in {"Overall", ability, row["category"]} - {""}:
                    names.setdefault(name, []).append(is_right(index))
        return {name: mean(values) for name, values in names.items()}

    return {
        "circular": by_group(lambda index: index in whole, lambda index: all(right[i] for i in groups[index])),
        "vanilla_first": by_group(lambda index: index < 1_000_000, right.__getitem__),
        "vanilla_all": by_group(lambda index: True, right.__getitem__),
    }


@st.composite
def answered(draw: DrawFn) -> tuple[Table, bytes, dict[int, str]]:
    rows = draw(sound_tables())
    indices = [int(row["index"]) for row in rows] + [999_999_999]
    answers = st.sampled_from(["A", "B", "C", "D", "E", "", "neither"])
    said = draw(st.dictionaries(st.sampled_from(indices), answers))
    # Mostly right answers, or no question would be right under all its rotations.
    right = {int(row["index"]): row["answer"] for row in rows if row["answer"]} if draw(st.booleans()) else {}
    return rows, draw(written(rows)), right | said


@fuzz(30, given_answers=answered())
def test_scores_are_those_of_a_plain_count(folder, given_answers):
    rows, data, predictions = given_answers
    path = folder / "scored.tsv"
    path.write_bytes(data)
    benchmark = MMBench(path, Options(extractor="strict", needs_pictures=False))
    for row, read in zip(rows, benchmark.rows, strict=True):
        assert (read.question, read.answer, read.category) == (row["question"], row["answer"], row["category"])
        assert read.options == {letter: row[letter] for letter in "ABCD" if letter in row}
    scores = benchmark.score(predictions)
    assert scores.scores == count_scores(rows, predictions)
    for split in scores.splits:
        assert scores.splits[split] == count_scores([row for row in rows if row["split"] == split], predictions)
    assert scores.counts["rows"] == len(scores.rows) == len(rows)
    assert scores.counts["rows_without_answer"] == sum(not row["answer"] for row in rows)


@fuzz(
    10,
    data=spoiled_files(sound_tables()),
    answers=st.dictionaries(st.integers(0, 3), texts, max_size=3),
    extractor=st.sampled_from(["vlmeval", "xtuner", "strict", "all"]),
)
def test_the_command_scores_or_says_what_is_wrong(folder, data, answers, extractor):
    path, predictions = folder / "command.tsv", folder / "predictions.tsv"
    path.write_bytes(data)
    indices: list[Any] = list(range(4))
    table = outcome(lambda: read_mmbench(path))
    if not isinstance(table, VlmtoolError):
        indices = [row.index for row in table.rows] * 4
    with open(predictions, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["index", "prediction"])
        writer.writerows({indices[place]: text for place, text in answers.items()}.items())
    code, printed, said = run_command(
        "mmbench", "--data-path", str(path), "--predictions", str(predictions), "--work-dir", str(folder / "results"),
        "--extractor", extractor,
    )  # fmt: skip
    assert ("Extractor: " in printed) == (code == 0)
    assert code == 0 or "Error: " in said
