"""Scoring by likelihood, from the table to the results: what is chosen, and that it is never taken for generated."""

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from tests.chat.conftest import TEMPLATE, byte_tokenizer, image_processor, tiny_llm, tiny_vision
from vlmtool.chat.generator import GenerationSettings, Generator, Request
from vlmtool.chat.likelihood import likelihoods
from vlmtool.cli.eval import evaluate
from vlmtool.cli.mmbench import mmbench
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import parse_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.data.views import OneView
from vlmtool.evaluation.benchmark import Options
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.benchmarks.multiple_choice import MultipleChoice
from vlmtool.evaluation.benchmarks.yes_no import YesNo
from vlmtool.evaluation.likelihood import LikelihoodGenerator, for_scoring
from vlmtool.evaluation.run import answer_all
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import DataError, UsageError

SETTINGS = GenerationSettings(max_new_tokens=4)
CHOOSE = Options(score="likelihood")


@pytest.fixture
def generator(tmp_path) -> Iterator[Generator]:
    """A model with random weights whose tokens are bytes; threads only wait for one another on one this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    torch.manual_seed(1)
    parts = VisionEncoder(tiny_vision()), MLPProjector(64, 64), tiny_llm()
    model = VisionLanguageModel(*parts, image_token_id(tokenizer)).eval().requires_grad_(False)
    tokens = model.projector.num_tokens(model.vision_encoder.num_patches)
    transform = ImageTransform(OneView(image_processor(), tokens, pad_to_square=True))
    renderer = Renderer(tokenizer, parse_template("tiny", TEMPLATE), transform.num_tokens)
    yield Generator(model, renderer, transform, identity="weights")
    torch.set_num_threads(before)


@pytest.fixture
def table(write_table):
    """Six questions with two to four options, of different lengths."""
    more = [{}, {"C": "blue"}, {"C": "blue", "D": "grey"}]
    return write_table(*({"index": str(i), "question": "Which" + "?" * i} | more[i % 3] for i in range(6)))


@pytest.mark.parametrize("kind", [MMBench, MultipleChoice])
def test_the_most_likely_option_is_chosen_at_any_batch_size(generator, table, tmp_path, kind):
    benchmark = kind(table, CHOOSE)
    samples = benchmark.samples()
    requests = [Request(benchmark.prompt(sample)) for sample in samples]
    choices = [tuple("ABCD"[: 2 + i % 3]) for i in range(6)]
    assert [benchmark.choices(sample) for sample in samples] == choices
    wanted = [max(values, key=lambda letter: values[letter]) for values in likelihoods(generator, requests, choices)]
    assert len(set(wanted)) > 1
    for batch_size in (1, 4):
        asked = answer_all(
            benchmark, for_scoring(generator, benchmark), SETTINGS, tmp_path / str(batch_size), batch_size
        )
        assert [asked[sample.index] for sample in samples] == wanted


def test_yes_or_no_is_chosen(generator, write_table, tmp_path):
    rows = [{"index": str(i), "question": "Is it" + "?" * i, "answer": "yes"} for i in range(3)]
    benchmark = YesNo(write_table(*rows), CHOOSE)
    said = answer_all(benchmark, for_scoring(generator, benchmark), SETTINGS, tmp_path)
    requests = [Request(benchmark.prompt(sample)) for sample in benchmark.samples()]
    values = likelihoods(generator, requests, [("Yes", "No")] * 3)
    assert list(said.values()) == ["Yes" if value["Yes"] > value["No"] else "No" for value in values]


def test_generated_answers_are_not_taken_for_chosen_ones(generator, table, tmp_path):
    generated = answer_all(MMBench(table), generator, SETTINGS, tmp_path)
    benchmark = MMBench(table, CHOOSE)
    chosen = answer_all(benchmark, LikelihoodGenerator(generator, benchmark), SETTINGS, tmp_path)
    assert set(chosen.values()) <= set("ABCD") and not set(generated.values()) & set("ABCD")
    assert answer_all(MMBench(table), generator, SETTINGS, tmp_path) == generated
    old = [json.loads(line)["prediction"] for line in (tmp_path / "predictions.old.jsonl").read_text().splitlines()]
    assert sorted(old) == sorted(chosen.values())


def test_without_the_switch_the_model_writes(generator, table):
    assert for_scoring(generator, MMBench(table)) is generator


def test_the_same_text_with_other_options_is_an_error(generator, write_table):
    # The first question holds what the second has as an option.
    rows = {"index": "0", "question": "Q\nA. x", "A": "", "B": "y", "C": "z"}, {"index": "1", "question": "Q"}
    path = write_table(rows[0] | {"answer": "B"}, rows[1] | {"A": "x", "B": "y", "C": "z"})
    with pytest.raises(DataError, match="index 1: another question has the same text"):
        LikelihoodGenerator(generator, MMBench(path, CHOOSE))


@pytest.fixture
def command(generator, monkeypatch):
    app = Typer()
    app.command("mmbench")(mmbench)
    app.command("eval")(evaluate)
    loader = SimpleNamespace(load_chat_model=lambda **parts: generator)
    monkeypatch.setitem(sys.modules, "vlmtool.chat.load", loader)

    def invoke(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, UsageError | DataError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.mark.parametrize("words", [("mmbench",), ("eval", "multiple_choice")])
def test_results_say_how_they_were_made(command, table, tmp_path, words):
    printed = command(*words, "model", "--data-path", table, "--work-dir", tmp_path / "w", "--score", "likelihood")
    metrics = json.loads((tmp_path / "w" / "metrics.json").read_text())
    assert (metrics["score"], metrics["extractor"]) == ("likelihood", "likelihood")
    assert "Extractor: likelihood" in printed and "by option likelihood" in printed
    assert "extractor likelihood" in (tmp_path / "w" / "report.html").read_text()
    command(*words, "model", "--data-path", table, "--work-dir", tmp_path / "g", "--max-new-tokens", "2")
    metrics = json.loads((tmp_path / "g" / "metrics.json").read_text())
    assert "score" not in metrics and metrics["extractor"] == "vlmeval"


@pytest.mark.parametrize("words", [("mmbench",), ("eval", "multiple_choice")])
def test_chosen_answers_of_a_file_are_scored_as_what_they_are(command, table, tmp_path, words):
    common = (*words, "--data-path", table)
    command(*common, "model", "--work-dir", tmp_path / "w", "--score", "likelihood")
    given = ("--predictions", tmp_path / "w" / "predictions.jsonl")
    with pytest.raises(DataError, match="predictions.jsonl:1: .*Add --score likelihood"):
        command(*common, *given, "--work-dir", tmp_path / "g")
    assert "by option likelihood" in command(*common, *given, "--work-dir", tmp_path / "g", "--score", "likelihood")
    sheet = ("--predictions", next((tmp_path / "w").glob("*_result.xlsx")))
    with pytest.raises(DataError, match="_result.xlsx:2: .*Add --score likelihood"):
        command(*common, *sheet, "--work-dir", tmp_path / "s")
    assert "by option likelihood" in command(*common, *sheet, "--work-dir", tmp_path / "s", "--score", "likelihood")
    given = ("--predictions", tmp_path / "g" / "predictions.jsonl")  # the copy says so, too
    command(*common, *given, "--work-dir", tmp_path / "h", "--score", "likelihood")
    made, *again = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("w", "g", "h"))
    assert made["score"] == "likelihood" and {metrics["score"] for metrics in again} == {"likelihood"}
    assert [metrics["scores"] for metrics in again] == [made["scores"]] * 2


def test_written_answers_of_a_file_are_not_scored_as_chosen(command, table, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"index": 0, "prediction": "A"}\n')
    with pytest.raises(DataError, match="p.jsonl:1: .*Leave --score likelihood out"):
        command(
            "mmbench", "--data-path", table, "--predictions", tmp_path / "p.jsonl", "--work-dir", tmp_path / "w",
            "--score", "likelihood",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--score", "likelyhood"), "Did you mean 'likelihood'"),
        (("--score", "likelihood", "--extractor", "strict"), "no answer to read"),
    ],
)
@pytest.mark.parametrize("words", [("mmbench",), ("eval", "multiple_choice")])
def test_contradictions_are_told_before_any_work(command, table, tmp_path, words, arguments, message):
    with pytest.raises(UsageError, match=message):
        command(*words, "model", "--data-path", table, "--work-dir", tmp_path / "w", *arguments)


def test_a_benchmark_without_options_is_refused(command, tmp_path):
    (tmp_path / "gqa.json").write_text('{"1": {"question": "What?", "answer": "a", "imageId": "1"}}')
    (tmp_path / "1.jpg").touch()
    with pytest.raises(UsageError, match="gqa has no options to choose from"):
        command(
            "eval", "gqa", "model", "--data-path", tmp_path / "gqa.json", "--work-dir", tmp_path / "w",
            "--image-folder", tmp_path, "--score", "likelihood",
        )  # fmt: skip
