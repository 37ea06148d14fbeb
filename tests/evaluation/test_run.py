"""The engine with a model that needs no weights: order, batches, resume, several processes."""

import pytest

from vlmtool.chat.generator import GenerationSettings
from vlmtool.evaluation import run
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.predictions import read_predictions
from vlmtool.evaluation.run import answer_all

SETTINGS = GenerationSettings(max_new_tokens=4)


class Interrupt(Exception):
    """Stands for a kill."""


class FakeGenerator:
    """Answers with the question's own text; remembers the batches; dies after `lives` of them."""

    def __init__(self, identity: str = "weights", lives: int = 1000) -> None:
        self.identity = identity
        self.lives = lives
        self.batches: list[list[str]] = []
        self.pictures: list[list] = []

    def prompt_length(self, request) -> int:
        return len(request.messages[0].content[1])

    def prepare(self, requests):
        return list(requests)

    def answer(self, requests, settings) -> list[str]:
        assert settings == SETTINGS
        if len(self.batches) == self.lives:
            raise Interrupt
        self.pictures.append([request.messages[0].images[0].source for request in requests])
        self.batches.append([request.messages[0].content[1].split("\n")[1] for request in requests])
        return [f"said {text}" for text in self.batches[-1]]

    @property
    def asked(self) -> list[str]:
        return sorted(text for batch in self.batches for text in batch)


@pytest.fixture
def benchmark(write_table) -> MMBench:
    """Seven questions of different lengths, `q0` to `qqqqqqq6`."""
    return MMBench(write_table(*({"index": str(i), "question": "q" * (i + 1) + str(i)} for i in range(7))))


def wanted(benchmark: MMBench) -> dict[int, str]:
    return {i: "said " + "q" * (i + 1) + str(i) for i in range(7)}


def test_answers_in_batches_of_like_length(benchmark, tmp_path):
    generator = FakeGenerator()
    assert answer_all(benchmark, generator, SETTINGS, tmp_path, batch_size=3) == wanted(benchmark)
    assert [[len(text) for text in batch] for batch in generator.batches] == [[8, 7, 6], [5, 4, 3], [2]]
    assert read_predictions(tmp_path / "predictions.jsonl") == wanted(benchmark)


def test_rotations_share_one_decoded_picture(write_table, question, tmp_path):
    generator = FakeGenerator()
    answer_all(MMBench(write_table(*question)), generator, SETTINGS, tmp_path)
    first, second = generator.pictures[0]
    assert first is second and first.mode == "RGB"


def test_interrupted_run_goes_on_where_it_stopped(benchmark, tmp_path):
    first, second = FakeGenerator(lives=2), FakeGenerator()
    with pytest.raises(Interrupt):
        answer_all(benchmark, first, SETTINGS, tmp_path, batch_size=2)
    with open(tmp_path / "predictions.jsonl", "a") as handle:
        handle.write('{"index": 0, "prediction": "sa')  # the kill came while a line was written
    assert answer_all(benchmark, second, SETTINGS, tmp_path, batch_size=5) == wanted(benchmark)
    assert len(first.asked) == 4 and not set(first.asked) & set(second.asked)
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 7
    third = FakeGenerator()
    assert answer_all(benchmark, third, SETTINGS, tmp_path) == wanted(benchmark) and not third.batches


@pytest.mark.parametrize("change", ["model", "settings", "options", "prompt"])
def test_answers_are_not_taken_over_from_something_else(benchmark, write_table, tmp_path, monkeypatch, change):
    answer_all(benchmark, FakeGenerator(), SETTINGS, tmp_path)
    generator = FakeGenerator("other weights" if change == "model" else "weights")
    if change == "settings":
        monkeypatch.setattr(f"{__name__}.SETTINGS", GenerationSettings(max_new_tokens=5))
    if change == "prompt":
        rows = [{"index": str(i), "question": "q" * (i + 1) + str(i), "hint": "new"} for i in range(7)]
        benchmark = MMBench(write_table(*rows))
    answer_all(benchmark, generator, SETTINGS, tmp_path, identity="bits=4" if change == "options" else "")
    assert len(generator.asked) == 7


def test_two_processes_share_the_rows_and_the_first_merges(benchmark, tmp_path, monkeypatch):
    """Run one after the other: the second process first, so that the first finds its file when it merges."""
    generators = [FakeGenerator(), FakeGenerator()]
    monkeypatch.setattr(run, "world_size", lambda: 2)
    monkeypatch.setattr(run, "barrier", lambda: None)
    results = {}
    for rank in (1, 0):
        monkeypatch.setattr(run, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(run, "is_main", lambda rank=rank: rank == 0)
        if rank == 0:  # settling at the start would take over what the other has answered already
            (tmp_path / "predictions.rank1.jsonl").rename(tmp_path / "aside")
            monkeypatch.setattr(run, "barrier", BringBack(tmp_path))
        results[rank] = answer_all(benchmark, generators[rank], SETTINGS, tmp_path, batch_size=2)
    assert results == {0: wanted(benchmark), 1: {}}
    assert [len(generator.asked) for generator in generators] == [4, 3]
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 7
    assert not list(tmp_path.glob("predictions.rank*"))


class BringBack:
    """The second barrier: the other process's file is complete."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 2:
            (self.folder / "aside").rename(self.folder / "predictions.rank1.jsonl")
