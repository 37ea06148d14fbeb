"""The engine: asks a model every question of a benchmark, in batches of like length, and loses no answer to a kill."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from PIL import Image as PILImage

from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.data.conversation import Image, Message
from vlmtool.evaluation.benchmark import Benchmark, Sample
from vlmtool.evaluation.pictures import decode_picture
from vlmtool.evaluation.predictions import Answer, AnswerStore
from vlmtool.utils.distributed import barrier, is_main, rank, world_size
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.terminal import clean, err, track


class Generator(Protocol):
    """What the engine needs of a model."""

    @property
    def identity(self) -> str:
        """Changes whenever the model's answers may change: weights, template, select layer, dtype, quantization."""

    def generate(self, requests: Sequence[Request], settings: GenerationSettings) -> list[str]:
        """Answer one batch, in the order given."""

    def prompt_length(self, request: Request) -> int:
        """Tokens of the prompt, images included; images are not decoded for it."""


def answer_key(sample: Sample, identity: str, settings: GenerationSettings) -> str:
    """What an answer belongs to: row, prompt, model and settings. An answer is taken again only under the same key."""
    asked = [sample.index, sample.fingerprint, identity, asdict(settings)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def answer_all(
    benchmark: Benchmark,
    generator: Generator,
    settings: GenerationSettings,
    folder: Path,
    batch_size: int = 16,
    identity: str = "",
) -> dict[int, str]:
    """Answer every sample that `folder` holds no answer to yet; each answer is on disk before the next batch starts.

    With several processes each takes its share and appends to a file of its own; the first merges them at the end. A
    run may be continued with another number of processes or another batch size.

    Args:
        folder: the work dir; holds `predictions.jsonl`.
        identity: what the answers depend on besides `generator.identity`, e.g. options of the command line.

    Returns:
        By index, all answers; empty in all processes but the first.
    """
    samples = benchmark.samples()
    keys = {sample.index: answer_key(sample, generator.identity + identity, settings) for sample in samples}
    store = AnswerStore(folder)
    known = store.settle(keys) if is_main() else {}
    barrier()  # from here to the next barrier nobody changes predictions.jsonl where there are several processes
    if not is_main():
        known = store.settled(keys)
    pending = [sample for sample in samples if sample.index not in known]
    if known and is_main():
        at_hand = f"{len(known)} of {len(samples)} answers are at hand in {folder}; {len(pending)} to go."
        err().print(clean(at_hand))
    batches = _batches(benchmark, generator, pending, batch_size)[rank() :: world_size()]
    target = store.path if world_size() == 1 else store.rank_path(rank())
    answered = _answer(benchmark, generator, settings, batches, store, target, keys)
    total = sum(map(len, batches))
    for _ in track(answered, total, benchmark.name) if is_main() else answered:
        pass
    barrier()
    if not is_main():
        return {}
    answers = store.settle(keys)
    if len(answers) < len(samples):
        raise VlmtoolError(
            f"{folder}: {len(samples) - len(answers)} of {len(samples)} answers are missing: a process did not finish. "
            "Run the same command again; the answers at hand are kept."
        )
    return answers


def _batches(
    benchmark: Benchmark, generator: Generator, pending: Sequence[Sample], batch_size: int
) -> list[list[Sample]]:
    """Samples of like length together, the longest first: what does not fit into memory shows at once.

    Samples of one group stay neighbours, so that they share their picture.
    """
    by_group = sorted(pending, key=lambda sample: (sample.group, sample.index))
    lengths = {sample.index: generator.prompt_length(Request(benchmark.prompt(sample))) for sample in by_group}
    ordered = sorted(by_group, key=lambda sample: -lengths[sample.index])
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def _answer(
    benchmark: Benchmark,
    generator: Generator,
    settings: GenerationSettings,
    batches: Sequence[Sequence[Sample]],
    store: AnswerStore,
    target: Path,
    keys: Mapping[int, str],
) -> Iterator[Sample]:
    for batch in batches:
        requests = _requests([benchmark.prompt(sample) for sample in batch])
        texts = generator.generate(requests, settings)
        store.append(
            target,
            [Answer(sample.index, text, keys[sample.index]) for sample, text in zip(batch, texts, strict=True)],
        )
        yield from batch


def _requests(prompts: Sequence[tuple[Message, ...]]) -> list[Request]:
    """Requests whose pictures in memory are decoded, each once: prompts that share one share the decoded one too."""
    decoded: dict[int, PILImage.Image] = {}

    def part(content: str | Image) -> str | Image:
        if isinstance(content, str) or isinstance(content.source, str):
            return content
        key = id(content.source)
        if key not in decoded:
            decoded[key] = decode_picture(content.source)
        return Image(decoded[key])

    return [
        Request(tuple(replace(message, content=tuple(map(part, message.content))) for message in prompt))
        for prompt in prompts
    ]
