"""The engine: asks a model every question of a benchmark, in batches of like length, and loses no answer to a kill."""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image as PILImage

from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.data.conversation import Image, Message
from vlmtool.evaluation.batch_size import BatchSize
from vlmtool.evaluation.benchmark import Benchmark, Sample
from vlmtool.evaluation.files.answer_store import Answer, AnswerStore
from vlmtool.evaluation.files.pictures import decode_picture
from vlmtool.evaluation.reading.extract import chosen_by
from vlmtool.utils.distributed import barrier, is_main, rank, world_size
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.terminal import clean, err, track


class Generator(Protocol):
    """What the engine needs of a model."""

    @property
    def identity(self) -> str:
        """Changes whenever the model's answers may change: weights, template, select layer, dtype, quantization."""

    def prompt_length(self, request: Request) -> int:
        """Tokens of the prompt, images included; images are not decoded for it."""

    def prepare(self, requests: Sequence[Request]) -> Any:
        """Read prompts and images of a batch; needs no device, so a thread does it while the model is at work."""

    def answer(self, batch: Any, settings: GenerationSettings) -> list[str]:
        """Answer what was prepared, in the order given."""


def answer_key(sample: Sample, identity: str, settings: GenerationSettings) -> str:
    """What an answer belongs to: row, prompt, model and settings. An answer is taken again only under the same key."""
    asked = [sample.index, sample.fingerprint, identity, asdict(settings)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def answer_all(
    benchmark: Benchmark,
    generator: Generator,
    settings: GenerationSettings,
    folder: Path,
    batch_size: int | None = 16,
    alive: Callable[[], None] = lambda: None,
) -> dict[int, str]:
    """Answer every sample that `folder` holds no answer to yet; each is written down before the next batch.

    With several processes each takes its share and appends to a file of its own; the first merges them at the end. A
    run may be continued with another number of processes or another batch size.

    Args:
        folder: the work dir; holds `predictions.jsonl`.
        batch_size: samples answered at once, halved when memory ends; None grows to the memory.
        alive: called after each answer, and so by each process as long as it has something to do.

    Returns:
        By index, all answers; empty in all processes but the first.
    """
    samples = benchmark.samples()
    keys = {sample.index: answer_key(sample, generator.identity, settings) for sample in samples}
    store = AnswerStore(folder)
    others = store.others(keys) if is_main() else 0
    known = store.settle(keys) if is_main() else {}
    barrier()  # from here to the next barrier nobody changes predictions.jsonl where there are several processes
    if not is_main():
        known = store.settled(keys)
    if others:
        told = (
            f"{others:,} answers in {folder} are of another model, prompt or setting: kept in {store.old_path.name}. "
        )
        err().print(clean(f"{told}The results there are replaced; --work-dir keeps both."))
    pending = [sample for sample in samples if sample.index not in known]
    if known and is_main():
        at_hand = f"{len(known)} of {len(samples)} answers are at hand in {folder}; {len(pending)} to go."
        err().print(clean(at_hand))
    own = _by_length(benchmark, generator, pending)[rank() :: world_size()]
    target = store.path if world_size() == 1 else store.rank_path(rank())
    batches = _Batches(own, BatchSize(batch_size))
    answered = _answer(benchmark, generator, settings, batches, lambda answers: store.append(target, answers), keys)
    total = sum(map(len, own))
    try:
        for _ in track(answered, total, benchmark.name) if is_main() else answered:
            alive()
    except KeyboardInterrupt:
        err().print(clean(f"Stopped. The answers so far are kept in {folder}: the same command goes on from them."))
        raise
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


def _by_length(benchmark: Benchmark, generator: Generator, pending: Sequence[Sample]) -> list[list[Sample]]:
    """Samples by group, longest first: batches are of like length, and what does not fit into memory shows at once."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in sorted(pending, key=lambda sample: sample.index):
        groups[sample.group].append(sample)
    lengths = {
        group: max(generator.prompt_length(Request(benchmark.prompt(sample))) for sample in samples)
        for group, samples in groups.items()
    }
    return [groups[group] for group in sorted(groups, key=lambda group: -lengths[group])]


class _Batches:
    """Groups that wait, and how many samples to take of them at once."""

    def __init__(self, groups: Sequence[list[Sample]], size: BatchSize) -> None:
        self._waiting = deque(groups)
        self.size = size

    def take(self) -> list[list[Sample]]:
        """Whole groups as long as they fit, at least one; of a group larger than a batch its beginning."""
        taken: list[list[Sample]] = []
        room = self.size.value
        while self._waiting and (len(self._waiting[0]) <= room or not taken):
            group = self._waiting.popleft()
            if len(group) > room:
                self._waiting.appendleft(group[room:])
                group = group[:room]
            taken.append(group)
            room -= len(group)
        return taken

    def put_back(self, taken: Sequence[list[Sample]]) -> None:
        """To be taken again, next."""
        self._waiting.extendleft(reversed(taken))


def _answer(
    benchmark: Benchmark,
    generator: Generator,
    settings: GenerationSettings,
    batches: _Batches,
    write: Callable[[list[Answer]], None],
    keys: Mapping[int, str],
) -> Iterator[Sample]:
    """Answer batch after batch; a thread reads the next one while the model is at work. Yields what is on disk."""

    def read(taken: list[list[Sample]]) -> Any:
        return generator.prepare(_requests([benchmark.prompt(sample) for group in taken for sample in group]))

    way = chosen_by(benchmark)
    with ThreadPoolExecutor(1) as reader:
        taken = batches.take()
        ahead = reader.submit(read, taken)
        while taken:
            batch, prepared = taken, ahead.result()
            taken = batches.take()
            ahead = reader.submit(read, taken)
            try:
                texts = generator.answer(prepared, settings)
            except (MemoryError, RuntimeError) as error:
                batches.size.shrink(error)
                ahead.cancel()
                batches.put_back([*batch, *taken])
                taken = batches.take()
                ahead = reader.submit(read, taken)
                continue
            samples = [sample for group in batch for sample in group]
            write([Answer(s.index, text, keys[s.index], way) for s, text in zip(samples, texts, strict=True)])
            batches.size.grow()
            yield from samples


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
