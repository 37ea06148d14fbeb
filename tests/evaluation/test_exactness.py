"""The same answers at every batch size, with and without shared beginnings, on one and on several processes."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from tests.chat.conftest import generator, llm_folder  # noqa: F401
from tests.evaluation.conftest import picture
from vlmtool.chat.generator import GenerationSettings, Generator, Request, answering
from vlmtool.chat.load import load_chat_model
from vlmtool.demo.commands import demo_steps, run_step
from vlmtool.demo.data import data_paths
from vlmtool.engine.device import start_process_group
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.evaluation.run import answer_all

SETTINGS = GenerationSettings(max_new_tokens=8)
CLOSE = 1e-4  # of two logits: float32 adds up in another order in another batch, and may turn these
CASES = [(size, shares) for shares in (True, False) for size in (1, 7, 16, 64)]


@dataclass(frozen=True)
class Reference:
    """Token by token: the answer so far, and by how much the token's logit led the second."""

    texts: list[str]
    margins: list[float]

    def may_become(self, answer: str) -> bool:
        """Whether the first token that is another one in `answer` was as good as a tie."""
        same = [answer.startswith(text) for text in self.texts]
        return self.margins[same.index(False) if False in same else -1] < CLOSE


def reference(model: Generator, request: Request) -> Reference:
    """What transformers' own `generate` says to the row by itself."""
    vlm, renderer = model.model, model.renderer
    ids = torch.tensor([renderer.prompt(request.messages)])
    images = [image for message in request.messages for image in message.images]
    with answering(vlm):
        embeds = vlm.embed(ids, vlm.encode_images(model.transform(images)))
        out = vlm.llm.generate(
            inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=SETTINGS.max_new_tokens,
            do_sample=False, eos_token_id=sorted(renderer.stop_ids()), pad_token_id=0, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    tokens, best = out.sequences[0].tolist(), [logits[0].topk(2).values for logits in out.logits]
    said = [renderer.tokenizer.decode(tokens[: end + 1], skip_special_tokens=True) for end in range(len(tokens))]
    return Reference([text.strip() for text in said], [float(two[0] - two[1]) for two in best])


def references(model: Generator, benchmark: MMBench) -> dict[int, Reference]:
    return {s.index: reference(model, Request(benchmark.prompt(s))) for s in benchmark.samples()}


def flips(expected: Mapping[int, Reference], answers: Mapping[int, str]) -> list[int]:
    """Rows whose answer differs; each of them must have been as good as a tie."""
    assert answers.keys() == expected.keys()
    turned = [index for index, answer in answers.items() if answer != expected[index].texts[-1]]
    wrong = {
        index: (answers[index], expected[index]) for index in turned if not expected[index].may_become(answers[index])
    }
    assert not wrong, wrong
    return turned


def answer_cases(model: Generator, benchmark: MMBench, root: Path) -> None:
    """Every case into a folder of its own."""
    for size, shares in CASES:
        model.shares_prefixes = shares
        answer_all(benchmark, model, SETTINGS, case_folder(root, size, shares), size)


def case_folder(root: Path, size: int, shares: bool) -> Path:
    return root / f"{size} {shares}"


def flips_of_cases(expected: Mapping[int, Reference], root: Path) -> dict[str, int]:
    folders = [case_folder(root, size, shares) for size, shares in CASES]
    return {folder.name: len(flips(expected, read_predictions(folder / "predictions.jsonl"))) for folder in folders}


@pytest.fixture
def table(write_table) -> Path:
    """Eight questions of several lengths and three rotations, which share more than half of their prompts."""
    rows = []
    for number in range(8):
        options = [f"left {number}", "right", f"up {number}"]
        about = {"hint": f"Said {number} times " * (6 + number % 3), "image": picture(size=(8 + 9 * number, 60))}
        for turn in range(3):
            letters = dict(zip("ABC", options[turn:] + options[:turn], strict=True))
            rows.append({"index": str(number + turn * 1_000_000), **about, **letters})
    return write_table(*rows)


def test_a_tiny_model_answers_as_hugging_face_at_every_batch_size(generator, table, tmp_path):  # noqa: F811
    benchmark = MMBench(table)
    batch = generator.prepare([Request(benchmark.prompt(sample)) for sample in benchmark.samples()[:3]])
    assert [family.size for family in batch.families] == [3]
    expected = references(generator, benchmark)
    assert len({one.texts[-1] for one in expected.values()}) > 12  # else they would show nothing
    answer_cases(generator, benchmark, tmp_path)
    assert not any(flips_of_cases(expected, tmp_path).values())


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The demo's folder, its commands run up to the merged model."""
    folder = tmp_path_factory.mktemp("demo")
    steps = demo_steps(folder, seed=0)
    last = next(number for number, step in enumerate(steps) if "convert merge" in step.command)
    for step in steps[: last + 1]:
        run_step(step)
    return folder


def load(demo: Path) -> tuple[Generator, MMBench]:
    return load_chat_model(str(demo / "merged"), torch_dtype="fp32", device="cpu"), MMBench(
        data_paths(demo / "data").mmbench
    )


def answer_in_process(rank: int, demo: Path, root: Path, port: int) -> None:
    """One of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    start_process_group("pytorch", torch.device("cpu"))
    answer_cases(*load(demo), root)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads only wait for one another on a model this small, the more so where others are at work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.soak
@pytest.mark.usefixtures("one_thread")
def test_the_trained_demo_answers_the_same_in_every_way(demo, tmp_path, capsys):
    model, benchmark = load(demo)
    expected = references(model, benchmark)
    shares = benchmark.score({index: one.texts[-1] for index, one in expected.items()}).scores
    assert shares["circular"]["Overall"] > 0.9  # a model that can answer, not one that always says the same
    answer_cases(model, benchmark, tmp_path / "one")
    port = 29_600 + os.getpid() % 300
    torch.multiprocessing.spawn(answer_in_process, (demo, tmp_path / "two", port), nprocs=2)
    with capsys.disabled():
        print(f"\n{len(expected)} rows; closest margin {min(min(one.margins) for one in expected.values()):.2g}")
        for processes in ("one", "two"):
            print(f"answers that differ, {processes} process(es): {flips_of_cases(expected, tmp_path / processes)}")
