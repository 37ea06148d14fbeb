"""The files in the work dir, and the command that writes them."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from openpyxl import load_workbook
from typer import Typer
from typer.testing import CliRunner

from vlmtool.cli.mmbench import mmbench
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.xlsx import CELL_LIMIT, cell_text
from vlmtool.evaluation.report import report
from vlmtool.utils.errors import DataError, UsageError

DATA = Path(__file__).parents[1] / "data" / "mmbench"


@pytest.fixture
def command():
    app = Typer()
    app.command()(mmbench)

    def invoke(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, UsageError | DataError):
            raise result.exception
        return result

    return invoke


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_given_predictions_are_scored_without_a_model(command, tmp_path):
    predictions = DATA / "mmbench_predictions.jsonl"
    result = command("--data-path", DATA / "mmbench.tsv", "--predictions", predictions, "--work-dir", tmp_path)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    expected = json.loads((DATA / "mmbench_expected.json").read_text())
    assert (metrics["benchmark"], metrics["extractor"]) == ("mmbench", "vlmeval")
    assert metrics["data_path"] == str(DATA / "mmbench.tsv")
    assert metrics["scores"]["circular"] == pytest.approx(expected["scores"]["circular"], abs=1e-9)
    assert metrics["counts"]["rows"] == 564 and metrics["counts"]["questions"] == 160
    assert lines_of(tmp_path / "predictions.jsonl") == lines_of(predictions)
    assert lines_of(tmp_path / "rows.jsonl")[1] == {"index": 1000000, "extracted": "A", "hit": 1, "circular_hit": 0}
    assert "Overall" in result.stdout and "30.0" in result.stdout and "Extractor: vlmeval" in result.stdout


def test_a_model_is_asked_and_scored(command, tmp_path, write_table, question, monkeypatch):
    loaded = {}

    def load_chat_model(model, **parts):
        loaded.update(parts, model=model)
        return SimpleNamespace(
            identity="weights",
            prompt_length=lambda request: 5,
            prepare=list,
            answer=lambda requests, settings: ["A"] * len(requests),
        )

    monkeypatch.setitem(sys.modules, "vlmtool.chat.load", SimpleNamespace(load_chat_model=load_chat_model))
    options = ("--llava", "parts", "--visual-select-layer", "-2", "--stop-words", "</s>", "--max-new-tokens", "7")
    result = command("folder", "--data-path", write_table(*question), "--work-dir", tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert (loaded["model"], loaded["llava"], loaded["visual_select_layer"]) == ("folder", "parts", -2)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["scores"]["vanilla_all"]["Overall"] == 0.5
    assert metrics["made_by"]["generation"]["max_new_tokens"] == 7
    assert metrics["made_by"]["generation"]["stop_words"] == ["</s>"]
    assert [line["index"] for line in lines_of(tmp_path / "predictions.jsonl")] == [0, 1_000_000]


def test_own_predictions_can_be_scored_again(command, tmp_path, write_table):
    data = write_table({})
    (tmp_path / "predictions.jsonl").write_text('{"index": 0, "prediction": "A", "key": "k"}\n')
    arguments = ("--data-path", data, "--predictions", tmp_path / "predictions.jsonl", "--work-dir", tmp_path)
    assert command(*arguments, "--extractor", "strict").exit_code == 0
    assert (tmp_path / "predictions.jsonl").read_text() == '{"index": 0, "prediction": "A", "key": "k"}\n'
    assert json.loads((tmp_path / "metrics.json").read_text())["extractor"] == "strict"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data-path is missing"),
        (("--data-path", "no.tsv"), "--data-path no.tsv: no such file"),
        (("--data-path", "."), "is a folder, not a file"),
        (("--data-path", DATA / "mmbench.tsv"), "no model"),
        (("--data-path", DATA / "mmbench.tsv", "--predictions", "no.jsonl"), "--predictions no.jsonl: no such file"),
        (("--data-path", DATA / "mmbench.tsv", "--extractor", "stric"), "Did you mean 'strict'"),
        (("x", "--data-path", DATA / "mmbench.tsv", "--bits", "3"), "--bits 3"),
        (("x", "--data-path", DATA / "mmbench.tsv", "--work-dir", DATA / "mmbench.tsv"), "cannot be made"),
        (("x", "--data-path", DATA / "mmbench.tsv", "--launcher", "pytorh"), "Did you mean 'pytorch'"),
        (("x", "--data-path", DATA / "mmbench.tsv", "--launcher", "slurm"), "SLURM_PROCID, .* not set"),
    ],
)
def test_wrong_options_are_told_before_any_work(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        command(*arguments)
    assert len(str(caught.value).splitlines()) <= 3


def test_missing_and_unknown_predictions_are_counted_and_named(command, tmp_path, write_table, question):
    (tmp_path / "p.jsonl").write_text('{"index": 0, "prediction": "A"}\n{"index": 55, "prediction": "B"}\n')
    arguments = ("--data-path", write_table(*question), "--predictions", tmp_path / "p.jsonl", "--work-dir", tmp_path)
    result = command(*arguments)
    counts = json.loads((tmp_path / "metrics.json").read_text())["counts"]
    assert (counts["predictions_missing"], counts["predictions_unknown"]) == (1, 1)
    assert "1 row without a prediction, counted as wrong: 1000000" in result.stderr
    assert "1 prediction for rows that the data does not have: line 2" in result.stderr


def test_predictions_of_another_file_are_refused(command, tmp_path, write_table):
    (tmp_path / "p.jsonl").write_text('{"index": 99, "prediction": "A"}\n')
    with pytest.raises(DataError, match="none of its 1 answers"):
        command("--data-path", write_table({}), "--predictions", tmp_path / "p.jsonl", "--work-dir", tmp_path / "w")


@pytest.mark.parametrize(("strangers", "is_refused"), [(1, False), (2, True)])
def test_predictions_mostly_of_another_file_are_refused(command, tmp_path, write_table, strangers, is_refused):
    entries = [{"index": index, "prediction": "A"} for index in (0, *range(50, 50 + strangers))]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    arguments = ("--data-path", write_table({}), "--predictions", tmp_path / "p.jsonl", "--work-dir", tmp_path / "w")
    if not is_refused:
        assert command(*arguments).exit_code == 0
        return
    with pytest.raises(DataError, match="2 of its 3 answers are for questions that"):
        command(*arguments)
    assert not (tmp_path / "w" / "predictions.jsonl").exists()


def test_spreadsheet_keeps_text_as_text(write_table, tmp_path):
    rows = ({"index": "0", "question": "=1+1", "C": "#N/A", "D": "3"}, {"index": "1", "hint": "\x00"})
    said = {0: '=HYPERLINK("x")', 1: "a\x07b\x1b" + "長" * 40_000}
    path = MMBench(write_table(*rows)).write_submission(said, tmp_path)
    header, first, second = load_workbook(path).active.iter_rows()
    assert [cell.value for cell in header] == [
        "index", "question", "A", "B", "C", "D", "prediction", "category", "l2-category", "answer", "split",
    ]  # fmt: skip
    values = dict(zip([cell.value for cell in header], first, strict=True))
    assert {values[name].data_type for name in ("question", "C", "D", "prediction")} <= {"s", "inlineStr"}
    assert (values["question"].value, values["C"].value, values["D"].value) == ("=1+1", "#N/A", "3")
    assert (values["index"].value, values["prediction"].value) == (0, '=HYPERLINK("x")')
    assert (values["answer"].value, values["split"].value) == ("A", "dev")
    assert second[6].value == "ab" + "長" * (CELL_LIMIT - 2)


def test_cells_are_cut_between_characters():
    assert cell_text("x" + "😀" * CELL_LIMIT) == "x" + "😀" * (CELL_LIMIT // 2)


def test_without_answers_the_submission_is_written_and_no_score(write_table, tmp_path, capsys):
    report(MMBench(write_table({"answer": ""})), {0: "A"}, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["scores"] == {}
    assert (tmp_path / "mmbench_result.xlsx").is_file()
    printed = capsys.readouterr().out
    assert "no score" in printed and "Overall" not in printed


def test_warnings_are_printed_and_stored(write_table, question, tmp_path, capsys):
    report(MMBench(write_table(*question)), {0: "A"}, tmp_path)
    assert "1 row without a prediction" in capsys.readouterr().err
    assert "1 row without a prediction" in json.loads((tmp_path / "metrics.json").read_text())["warnings"][0]


def test_page_escapes_everything_and_holds_the_pictures(write_table, question, tmp_path):
    evil = "<script>alert(1)</script>"
    base, rotation = question
    path = write_table(base | {"question": evil, "category": f'"{evil}'}, rotation)
    report(MMBench(path), {0: "A" + evil, 1_000_000: "B"}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert evil not in page and page.count("&lt;script&gt;") >= 3
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 1  # rotations share one
    assert page.count('class="card"') == 1 and 'data-state="wrong"' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
