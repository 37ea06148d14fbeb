"""Rows per second of MMBench questions: the evaluation engine against a bare loop, same model, same answers, one run.

The bare loop takes one row after the other: picture decoded and encoded for each, KV cache, logits at the last position
only, answers of at most two tokens. Two models with random weights: the demo's parts, and one that reads 336-pixel
pictures as 576 tokens, as LLaVA-1.5 does. The bound is what the engine saves by counting: with R rotations a question
costs E + P + R S in place of R (E + P + S), where E, P and S are the multiplications of the encoder, of the prompt that
the rotations share, and of the rest.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
)

import vlmtool.demo
from vlmtool.chat.generator import GenerationSettings, Generator, Request, answering
from vlmtool.chat.prompt import read_prompt
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.data.views import OneView
from vlmtool.demo.benchmark_files import write_benchmark_files
from vlmtool.demo.data import data_paths
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.run import answer_all
from vlmtool.evaluation.tables.picture_table import ROTATION_STEP
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.allocator import keep_freed_memory

ASSETS = Path(vlmtool.demo.__file__).parent / "assets"
SETTINGS = GenerationSettings(max_new_tokens=2)


@dataclass(frozen=True)
class Work:
    """Multiplications of one question's parts."""

    encoder: float
    prefix: float
    suffix: float
    rotations: float

    @property
    def bound(self) -> float:
        """How many times as fast as the bare loop an engine can be that computes nothing twice."""
        shared = self.encoder + self.prefix
        return self.rotations * (shared + self.suffix) / (shared + self.rotations * self.suffix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=60, help="of the demo's file, for the demo's parts")
    parser.add_argument("--large-questions", type=int, default=6, help="the same for the 576-token model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    keep_freed_memory()  # for both, as loading a model for the CPU does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = data_paths(folder)
        write_benchmark_files(paths.mmbench, paths.mmbench_blank, paths.mmbench_shuffled, paths.pairs)
        models = (("demo", demo_model, arguments.questions), ("576 tokens", large_model, arguments.large_questions))
        for title, make, questions in models:
            table = folder / f"{questions}.tsv"
            table.write_text(first_questions(paths.mmbench, questions), encoding="utf-8")
            compare(title, make(), MMBench(table), folder, arguments.repeats, arguments.batch_size)


def first_questions(path: Path, number: int) -> str:
    """The header and every rotation of the first questions; the demo's cells hold no line ends."""
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    bases = [int(line.split("\t")[0]) % ROTATION_STEP for line in lines]
    wanted = set(list(dict.fromkeys(bases))[:number])
    return header + "".join(line for line, base in zip(lines, bases, strict=True) if base in wanted)


def demo_model() -> Generator:
    """The demo's language model and encoder, with a projector that has learned nothing."""
    llm = LlamaForCausalLM.from_pretrained(ASSETS / "llm", dtype=torch.float32)
    vision = CLIPVisionModel.from_pretrained(ASSETS / "vision_encoder", dtype=torch.float32)
    processor = CLIPImageProcessorPil.from_pretrained(ASSETS / "vision_encoder")
    return compose(llm, vision, processor)


def large_model() -> Generator:
    """336 pixels, 576 tokens; the language model takes most of the time, as in a 7B."""
    torch.manual_seed(0)
    vocabulary = len(load_tokenizer(ASSETS / "llm"))
    llm = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=2048,
    ))  # fmt: skip
    vision = CLIPVisionModel(CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, image_size=336,
        patch_size=14,
    ))  # fmt: skip
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return compose(llm, vision, processor)


def compose(llm: LlamaForCausalLM, vision: CLIPVisionModel, processor: CLIPImageProcessorPil) -> Generator:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(ASSETS / "llm")
    encoder = VisionEncoder(vision)
    projector = MLPProjector(vision.config.hidden_size, llm.config.hidden_size)
    model = VisionLanguageModel(encoder, projector, llm, image_token_id(tokenizer)).eval().requires_grad_(False)
    transform = ImageTransform(OneView(processor, projector.num_tokens(encoder.num_patches), pad_to_square=True))
    template = find_template(None, tokenizer.chat_template)
    return Generator(model, Renderer(tokenizer, template, transform.num_tokens), transform, identity="benchmark")


def compare(title: str, generator: Generator, benchmark: MMBench, folder: Path, repeats: int, batch_size: int) -> None:
    """Both in turn; prints the medians and the ratio."""
    counter = iter(range(1000))

    def engine() -> dict[int, str]:
        return answer_all(benchmark, generator, SETTINGS, folder / f"{title} {next(counter)}", batch_size)

    def bare() -> dict[int, str]:
        return bare_loop(generator, benchmark)

    engine(), bare()  # once without a clock
    seconds: dict[str, list[float]] = {"bare": [], "engine": []}
    for _ in range(repeats):
        expected = timed(bare, seconds["bare"])
        answers = timed(engine, seconds["engine"])
        if answers != expected:
            raise SystemExit(f"{title}: {sum(answers[i] != expected[i] for i in expected)} answers differ.")
    rows = len(benchmark.rows)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    work = count_work(generator, benchmark)
    ratio = medians["bare"] / medians["engine"]
    print(f"{title}: {rows} rows, {work.rotations:.2f} rotations, answers identical, {torch.get_num_threads()} threads")
    print(f"  rows/s: bare loop {rows / medians['bare']:.1f}, engine {rows / medians['engine']:.1f}: {ratio:.2f} times")
    print(
        f"  bound by counting {work.bound:.2f}, reached {ratio / work.bound:.2f} of it "
        f"(E : P : S = {work.encoder:.2g} : {work.prefix:.2g} : {work.suffix:.2g})"
    )
    for name, values in seconds.items():
        print(f"  {name}: " + ", ".join(f"{value:.2f}" for value in values) + " s")


def timed(act: Callable[[], dict[int, str]], seconds: list[float]) -> dict[int, str]:
    start = time.perf_counter()
    result = act()
    seconds.append(time.perf_counter() - start)
    return result


def bare_loop(generator: Generator, benchmark: MMBench) -> dict[int, str]:
    """One row after the other, written down plainly."""
    model, renderer, transform = generator.model, generator.renderer, generator.transform
    tokenizer, ends = renderer.tokenizer, set(renderer.stop_ids())
    answers = {}
    for sample in benchmark.samples():
        request = Request(benchmark.prompt(sample))
        prompt = read_prompt(renderer, request)
        with answering(model):
            image_embeds = model.encode_images(transform(prompt.images))
            embeds = model.embed(torch.tensor([prompt.input_ids]), image_embeds)
            cache, said = DynamicCache(), []
            for _ in range(SETTINGS.max_new_tokens):
                output = model.llm(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = int(output.logits[0, -1].argmax())
                if token in ends:
                    break
                said.append(token)
                embeds = model.llm.get_input_embeddings()(torch.tensor([[token]]))
        answers[sample.index] = tokenizer.decode(said, skip_special_tokens=True).strip()
    return answers


def count_work(generator: Generator, benchmark: MMBench) -> Work:
    """Means over the questions."""
    model = generator.model
    groups: dict[int, list[Request]] = {}
    for sample in benchmark.samples():
        groups.setdefault(sample.group, []).append(Request(benchmark.prompt(sample)))
    prefix, suffix = [], []
    for requests in groups.values():
        batch = generator.prepare(requests)
        shared = batch.families[0].shared if len(requests) > 1 else 0
        for prompt in batch.prompts:
            prefix.append(decoder_work(model.llm.config, 0, shared))
            suffix.append(decoder_work(model.llm.config, shared, len(prompt.input_ids)))
    vision = model.vision_encoder.model
    patches = (vision.config.image_size // vision.config.patch_size) ** 2 + 1
    return Work(
        encoder_work(vision.config, model.vision_encoder.num_blocks, patches),
        statistics.mean(prefix),
        statistics.mean(suffix),
        len(benchmark.rows) / len(groups),
    )


def decoder_work(config: LlamaConfig, start: int, stop: int) -> float:
    """Multiplications of the tokens from one position to another, each of which reads all before it."""
    num_layers, hidden = config.num_hidden_layers, config.hidden_size
    weights = hidden * (2 * hidden + 2 * hidden * config.num_key_value_heads / config.num_attention_heads)
    weights += 3 * hidden * config.intermediate_size
    read = sum(range(start + 1, stop + 1))
    return num_layers * ((stop - start) * weights + 2 * hidden * read)


def encoder_work(config: CLIPVisionConfig, num_blocks: int, patches: int) -> float:
    """Multiplications of one picture; every patch reads every other."""
    hidden = config.hidden_size
    weights = 4 * hidden * hidden + 2 * hidden * config.intermediate_size
    embedding = 3 * config.patch_size**2 * hidden
    return num_blocks * (patches * weights + 2 * hidden * patches * patches) + patches * embedding


if __name__ == "__main__":
    main()
