"""The engine with a model that needs no weights: order, batches, resume, several processes."""

import pytest
import torch

from vlmtool.chat.generator import GenerationSettings
from vlmtool.evaluation import batch_size, run
from vlmtool.evaluation.batch_size import FIRST, MOST_ON_CPU, BatchSize
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.evaluation.run import answer_all
from vlmtool.utils.errors import VlmtoolError

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


@pytest.mark.parametrize("change", ["model", "settings", "prompt"])
def test_answers_are_not_taken_over_from_something_else(benchmark, write_table, tmp_path, monkeypatch, change):
    answer_all(benchmark, FakeGenerator(), SETTINGS, tmp_path)
    generator = FakeGenerator("other weights" if change == "model" else "weights")
    if change == "settings":
        monkeypatch.setattr(f"{__name__}.SETTINGS", GenerationSettings(max_new_tokens=5))
    if change == "prompt":
        rows = [{"index": str(i), "question": "q" * (i + 1) + str(i), "hint": "new"} for i in range(7)]
        benchmark = MMBench(write_table(*rows))
    answer_all(benchmark, generator, SETTINGS, tmp_path)
    assert len(generator.asked) == 7


class SmallMemory(FakeGenerator):
    """Holds `room` rows at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def answer(self, requests, settings) -> list[str]:
        if len(requests) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().answer(requests, settings)


@pytest.mark.parametrize(("room", "sizes"), [(3, [2, 2, 2, 1]), (1, [1] * 7), (8, [7])])
def test_where_memory_ends_batches_are_halved_and_no_answer_is_lost(benchmark, tmp_path, capsys, room, sizes):
    generator = SmallMemory(room)
    assert answer_all(benchmark, generator, SETTINGS, tmp_path, batch_size=8) == wanted(benchmark)
    assert [len(batch) for batch in generator.batches] == sizes
    assert len(generator.asked) == 7
    assert ("Memory ended" in capsys.readouterr().err) == (room < 7)


def test_where_not_one_fits_it_says_so_and_keeps_what_is_answered(benchmark, tmp_path):
    with pytest.raises(VlmtoolError, match="too small for even one question"):
        answer_all(benchmark, SmallMemory(0), SETTINGS, tmp_path, batch_size=4)


def test_other_failures_are_not_taken_for_a_full_memory(benchmark, tmp_path):
    generator = FakeGenerator()
    generator.answer = lambda requests, settings: raise_(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        answer_all(benchmark, generator, SETTINGS, tmp_path)


def raise_(error: Exception):
    raise error


def test_auto_begins_small_and_grows(write_table, tmp_path):
    rows = [{"index": str(i), "question": f"q{i}"} for i in range(100)]
    generator = FakeGenerator()
    answer_all(MMBench(write_table(*rows)), generator, SETTINGS, tmp_path, batch_size=None)
    sizes = [len(batch) for batch in generator.batches]
    assert sizes[0] == FIRST and sizes[1] <= sizes[-2] <= MOST_ON_CPU and max(sizes) > FIRST


def test_auto_stops_growing_before_memory_ends(monkeypatch):
    monkeypatch.setattr(batch_size, "_memory", lambda: 100)
    used = [10]
    monkeypatch.setattr(batch_size, "_peak", lambda: used[0])
    size = BatchSize(None)
    for peak, expected in ((20, 2 * FIRST), (30, 4 * FIRST), (50, 4 * FIRST)):  # twice 40 beside 10 is above 70
        used[0] = peak
        size.grow()
        assert size.value == expected


def test_rotations_stay_together_in_a_batch(write_table, tmp_path):
    rows = [{"index": str(i + turn * 1_000_000), "question": f"q{i}"} for i in range(4) for turn in range(3)]
    generator = FakeGenerator()
    answer_all(MMBench(write_table(*rows)), generator, SETTINGS, tmp_path, batch_size=7)
    assert generator.batches == [[f"q{i}"] * 3 + [f"q{i + 1}"] * 3 for i in (0, 2)]


def test_a_group_larger_than_a_batch_is_split(write_table, tmp_path):
    rows = [{"index": str(turn * 1_000_000), "question": f"q{turn}"} for turn in range(5)]
    generator = FakeGenerator()
    answer_all(MMBench(write_table(*rows)), generator, SETTINGS, tmp_path, batch_size=2)
    assert [len(batch) for batch in generator.batches] == [2, 2, 1]


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
