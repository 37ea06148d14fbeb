"""A 7B-shaped LLaVA on one GPU: samples/s, tokens/s, TFLOP/s and peak memory, with LoRA on bf16 and on NF4 (QLoRA).

The weights are random and made on the device, no file holds them: Vicuna-7B's shape, CLIP ViT-L/14-336's, LLaVA-1.5's
projector of two layers. All else is vlmtool's own: adapters, composed model, sampler by length, loader, collator, loop,
loss, optimiser, clipping, schedule, activation checkpointing. Pictures are random numbers and are not decoded; nothing
is saved. The measured steps follow some without a clock.

FLOP are counted as `vlmtool/engine/flop.py` says. Lengths are those of `mixture.py`.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mixture import MAX_LENGTH, draw
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, PreTrainedModel

from vlmtool.data.collate import Collator
from vlmtool.data.dataset import Sample
from vlmtool.data.render import IGNORED
from vlmtool.data.sampler import Share, StepPlan
from vlmtool.engine.build import runner_arguments
from vlmtool.engine.device import autocast, compute_dtype, pick_device
from vlmtool.engine.feed import Feed
from vlmtool.engine.flop import StepFlop
from vlmtool.engine.loop import StepResult
from vlmtool.engine.resources import peak_memory
from vlmtool.engine.runner import VlmRunner
from vlmtool.engine.strategies.choose import make_strategy
from vlmtool.engine.trainable import check_trainable
from vlmtool.models.build import build_projector
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.last_block import narrow_last_block
from vlmtool.models.llm import keep_gradients_on_cpu
from vlmtool.models.lora import add_llm_lora
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.recipe.load import parse_recipe
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.pixels import Pixels


@dataclass(frozen=True)
class Shape:
    """Sizes of the parts."""

    llm: LlamaConfig
    encoder: CLIPVisionConfig
    lora_r: int
    text_scale: float = 1.0
    """Of the lengths of the texts."""


FULL = Shape(
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096,
    ),
    CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    ),
    lora_r=128,
)  # fmt: skip
TINY = Shape(
    LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=4096,
    ),
    CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    ),
    lora_r=8,
    text_scale=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What one way of training gave."""

    name: str
    samples_per_s: float
    tokens_per_s: float
    tflops: float
    peak_gb: float
    step_seconds: float
    losses: tuple[float, float]
    """Of the first and the last step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16, help="samples per step")
    parser.add_argument("--steps", type=int, default=20, help="that are measured")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on any device: runs every line")
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        raise SystemExit("gpu_check: torch sees no GPU here. On a CPU, --tiny runs every line with a tiny shape.")
    shape, device = TINY if arguments.tiny else FULL, pick_device()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{where}, torch {torch.__version__}, {date.today()}, batch size {arguments.batch_size}")
    print("| | samples/s | tokens/s | TFLOP/s | peak memory, GB | s/step | loss |\n|---|---|---|---|---|---|---|")
    for name, quantization in (("LoRA on bf16", None), ("QLoRA (NF4)", "nf4")):
        if device.type == "cpu":
            name = name.replace("bf16", "float32")
        print(row(measure(name, shape, quantization, device, arguments)), flush=True)
    if arguments.tiny:
        print("A tiny shape: these figures say nothing of a 7B.")


def row(figures: Figures) -> str:
    """A line of the table."""
    first, last = figures.losses
    return (
        f"| {figures.name} | {figures.samples_per_s:.2f} | {figures.tokens_per_s:,.0f} | {figures.tflops:.3g} | "
        f"{figures.peak_gb:.1f} | {figures.step_seconds:.2f} | {first:.2f} → {last:.2f} |"
    )


def measure(
    name: str, shape: Shape, quantization: str | None, device: torch.device, arguments: argparse.Namespace
) -> Figures:
    """Train with the real runner, and read the clock and the memory."""
    recipe = make_recipe(shape, quantization, arguments.batch_size)
    torch.manual_seed(0)
    model = make_model(shape, recipe, device)
    check_trainable(model, recipe)
    steps = arguments.warmup + arguments.steps
    samples = RandomSamples(shape, model.vision_encoder.num_patches, steps * arguments.batch_size)
    plan = StepPlan((Share(len(samples)),), arguments.batch_size, 1, 1, 0, tuple(samples.lengths), by_length=True)
    collate = Collator(0, model.image_token_id)
    feed: Any = Feed(None, None, collate, samples, [], None, None, plan, steps)  # type: ignore[arg-type]
    meter = Meter(arguments.warmup, device)
    with tempfile.TemporaryDirectory() as folder:
        dtype = compute_dtype(recipe.runtime.dtype, device)
        strategy = make_strategy(recipe, device, partial(autocast, device, dtype))
        given = runner_arguments(recipe, Path(folder), model, feed, strategy, dtype)
        hooks = {**given["default_hooks"], "checkpoint": None}  # a checkpoint of adapters would be a gigabyte
        given |= {"default_hooks": hooks, "custom_hooks": [meter], "model": model}
        runner = VlmRunner(**given, meta={"forced": []}, device=device, launcher="none", experiment_name="gpu_check")
        try:
            runner.train()
        except torch.cuda.OutOfMemoryError as error:
            raise SystemExit(f"{name}: out of memory; --batch-size {arguments.batch_size} is too large.") from error
    counted = meter.results
    images = sum(samples.drawn[i].pictures for step in range(arguments.warmup, steps) for i in plan.step_samples(step))
    tokens, supervised = sum(r.num_tokens for r in counted), sum(r.num_supervised for r in counted)
    flop = StepFlop.of(model).count(tokens, supervised, images, images)
    return Figures(
        name,
        sum(r.num_samples for r in counted) / meter.seconds,
        sum(r.num_tokens for r in counted) / meter.seconds,
        flop / meter.seconds / 1e12,
        meter.peak_bytes / 1e9,
        meter.seconds / len(counted),
        (meter.first_loss, counted[-1].loss),
    )


def make_recipe(shape: Shape, quantization: str | None, batch_size: int) -> Recipe:
    """LLaVA-1.5's finetuning with LoRA; the paths stand for weights that are made here."""
    lora = {"r": shape.lora_r, "alpha": 2.0 * shape.lora_r}
    sections = {
        "llm": {"path": "made-here", "quantization": quantization, "lora": lora},
        "vision_encoder": {"path": "made-here", "freeze": True},
        "projector": {"depth": 2},
        "data": {"path": "made-here", "max_length": MAX_LENGTH, "sampler": "length"},
        "schedule": {"lr": 2e-4, "batch_size": batch_size},
        "runtime": {"activation_checkpointing": True},
    }
    return parse_recipe(sections, "gpu_check")


def make_model(shape: Shape, recipe: Recipe, device: torch.device) -> VisionLanguageModel:
    """As `engine.build.build_model` puts it together, of weights that no file holds."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(shape.llm, dtype=dtype)
        vision = CLIPVisionModel._from_config(shape.encoder, dtype=dtype)
    if recipe.llm.quantization is not None:
        quantize(llm, dtype, device)
    llm.requires_grad_(False)
    llm = add_llm_lora(llm, recipe.llm.lora)
    encoder = VisionEncoder(vision.eval(), Reading.of(recipe.vision_encoder)).requires_grad_(False)
    width, options = shape.llm.hidden_size, recipe.projector.options
    projector = build_projector(recipe.projector.type, encoder.hidden_size, width, options, device=device)
    llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = VisionLanguageModel(encoder, projector, llm, image_token_id=shape.llm.vocab_size)
    model.is_narrowed = narrow_last_block(llm)
    return model


def quantize(llm: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    """Every linear layer but the head as bitsandbytes' NF4 with double quantisation, in place, one after another."""
    import bitsandbytes as bnb

    head = llm.get_output_embeddings()
    for name in [name for name, m in llm.named_modules() if isinstance(m, nn.Linear) and m is not head]:
        layer = llm.get_submodule(name)
        packed = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, quant_type="nf4",
            compress_statistics=True, device="meta",
        )  # fmt: skip
        packed.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        parent, _, last = name.rpartition(".")
        setattr(llm.get_submodule(parent), last, packed.to(device))  # this packs it
    llm.is_loaded_in_4bit = True  # what peft asks
    keep_gradients_on_cpu(llm)


class RandomSamples(Dataset[Sample]):
    """Samples of random tokens and numbers, with the lengths of `mixture.py`.

    Args:
        num_patches: image tokens of a picture.
        count: of samples.
    """

    def __init__(self, shape: Shape, num_patches: int, count: int) -> None:
        self.shape, self.num_patches = shape, num_patches
        self.drawn = draw(count, num_patches, shape.text_scale)
        self.lengths = [one.text + one.pictures * num_patches for one in self.drawn]
        generator = torch.Generator().manual_seed(0)
        side = shape.encoder.image_size
        self.picture = torch.randn(1, 3, side, side, generator=generator)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sample:
        vocabulary, drawn = self.shape.llm.vocab_size, self.drawn[index]
        text = torch.randint(3, vocabulary, (drawn.text,), generator=torch.Generator().manual_seed(index))
        image = torch.full((drawn.pictures * self.num_patches,), vocabulary)
        input_ids = torch.cat([image, text])
        labels: Tensor = input_ids.clone()
        labels[: len(input_ids) - drawn.supervised] = IGNORED
        pixels = Pixels.one_view_each(self.picture) if drawn.pictures else None
        return Sample(str(index), input_ids, labels, pixels)


class Meter(Hook):
    """Notes what the steps after the first ones gave, the seconds they took together, and the peak of memory."""

    def __init__(self, warmup: int, device: torch.device) -> None:
        self.warmup, self.device = warmup, device
        self.results: list[StepResult] = []
        self.first_loss = 0.0
        self._start = 0.0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock once what was asked of the device before is done."""
        if batch_idx == self.warmup:
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self._start = time.perf_counter()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the step."""
        if outputs.skipped:
            raise SystemExit(f"Step {batch_idx + 1} was skipped (loss {outputs.loss}): no figures.")
        if batch_idx == 0:
            self.first_loss = outputs.loss
        if batch_idx >= self.warmup:
            self.results.append(replace(outputs, bad_samples=()))

    def after_train(self, runner: Any) -> None:
        """Stop the clock."""
        self._wait()
        self.seconds = time.perf_counter() - self._start
        self.peak_bytes = peak_memory(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


if __name__ == "__main__":
    main()
