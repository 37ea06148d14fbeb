"""What a run will need of disk and memory: plain estimates from its parts, and what there is."""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vlmtool.engine.expand import expand
from vlmtool.engine.optimizer import try_optimizer
from vlmtool.models.llm import blocks_of
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_names
from vlmtool.recipe.memory import ADAM_STATES, FLOAT32, QUANTIZED
from vlmtool.recipe.schema import Recipe, Schedule
from vlmtool.utils.checklist import Row, counted
from vlmtool.utils.errors import VlmtoolError
from vlmtool.utils.memory import peak_rss

KEPT, KEPT_AGAIN = 34, 2  # bytes of activations for a token, a layer and a feature, in 16 bits
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class PassLoad:
    """What goes through the model at once: so many tokens and views of pictures, so many tokens supervised."""

    tokens: int
    supervised: int
    views: float


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes in each process."""

    weights: Mapping[str, float]
    """By part."""
    gradients: float
    optimizer: float
    activations: float | None = None
    """Of the largest pass, estimated; None where its size is not known."""
    logits: float = 0.0

    @property
    def total(self) -> float:
        """All of it, activations where they are known."""
        return sum(self.weights.values()) + self.gradients + self.optimizer + (self.activations or 0.0) + self.logits


def memory_need(
    model: VisionLanguageModel, recipe: Recipe, device: torch.device, load: PassLoad | None = None
) -> MemoryNeed:
    """What training this model keeps in memory.

    Args:
        model: as planned, what is trained asking for gradients.
        load: the largest pass.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    llm, quantization = model.llm, recipe.llm.quantization
    quantized = _linear(llm, llm.get_output_embeddings()) if quantization else set()
    weights = {
        "llm": _part_bytes(llm, _frozen_bytes(llm, device), quantized, QUANTIZED.get(quantization or "", 0.0)),
        "vision_encoder": sum(_part_bytes(e, _frozen_bytes(e.model, device)) for e in model.vision_encoder.encoders),
        "projector": _part_bytes(model.projector, FLOAT32),
    }
    need = MemoryNeed(weights, FLOAT32 * trained, optimizer_bytes(recipe) * trained)
    if load is None:
        return need
    logits = load.supervised * llm.get_output_embeddings().out_features * FLOAT32
    return replace(need, activations=_activations(model, recipe, device, load), logits=logits)


def _activations(model: VisionLanguageModel, recipe: Recipe, device: torch.device, load: PassLoad) -> float:
    """Of the language model, and of the encoder where something in it is trained.

    Source: Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, equation 2: 34 s b h bytes a layer in 16 bits,
    without the attention scores, which are not kept; 2 s b h a layer that is computed again.
    """
    dtype = recipe.runtime.dtype
    times = 2.0 if dtype == "float32" or (dtype == "auto" and device.type == "cpu") else 1.0
    blocks, width = len(blocks_of(model.llm)), model.llm.get_input_embeddings().embedding_dim
    total = load.tokens * width * _kept(blocks, "llm" in recipe.runtime.activation_checkpointing)
    encoder = model.vision_encoder
    if any(p.requires_grad for p in encoder.parameters()) and encoder.num_patches is not None:
        kept = _kept(len(blocks_of(encoder)), "vision_encoder" in recipe.runtime.activation_checkpointing)
        total += load.views * encoder.num_patches * encoder.hidden_size * kept
    return times * total


def _kept(blocks: int, again: bool) -> int:
    """Bytes for a token and a feature in 16 bits; of what is computed again, one block's at a time."""
    return KEPT + KEPT_AGAIN * blocks if again else KEPT * blocks


def _frozen_bytes(part: nn.Module, device: torch.device) -> int:
    """Bytes of a frozen weight: the checkpoint's on a GPU, float32 on a CPU."""
    dtype = getattr(part.config, "dtype", None)
    return dtype.itemsize if device.type != "cpu" and isinstance(dtype, torch.dtype) else FLOAT32


def _linear(part: nn.Module, head: nn.Module) -> set[int]:
    """Identities of the weights that are quantised: of linear layers, the output head aside."""
    return {id(m.weight) for m in part.modules() if isinstance(m, nn.Linear) and m is not head}


def _part_bytes(part: nn.Module, frozen: int, quantized: Collection[int] = (), quantized_bytes: float = 0.0) -> float:
    """Bytes of the weights, a frozen one of which takes `frozen`, or `quantized_bytes` where it is in `quantized`."""
    total = 0.0
    for weight in part.parameters():
        each = FLOAT32 if weight.requires_grad else quantized_bytes if id(weight) in quantized else frozen
        total += weight.numel() * each
    return total


def memory_row(need: MemoryNeed, device: torch.device, processes: int = 1) -> Row:
    """Whether weights, gradients and optimiser fit.

    Args:
        processes: that share the RAM of this machine; each has a GPU of its own.
    """
    if device.type == "cuda":
        available, where, total = torch.cuda.get_device_properties(device).total_memory, "GPU memory", need.total
    else:
        available, where, total = ram(), "RAM", need.total * processes
    of_pass = {"activations": need.activations or 0.0, "logits": need.logits}
    parts = {**need.weights, "gradients": need.gradients, "optimiser": need.optimizer, **of_pass}
    told = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
    times = f", in each of {processes} processes" if total != need.total else ""
    when = "before activations" if need.activations is None else "estimated for the largest pass"
    detail = f"{size(total)} of {size(available)} {where}, {when}: {told}{times}"
    if total <= available:
        return Row("ok", "memory", detail)
    return Row("warning", "memory", detail, _smaller(need, available * need.total / total))


def _smaller(need: MemoryNeed, available: float) -> str:
    """What to change so that it fits."""
    if need.total - (need.activations or 0.0) - need.logits <= available:
        return (
            "Set runtime.activation_checkpointing=True, a smaller schedule.batch_size with as much more accumulation, "
            "or a smaller schedule.pack_to: the steps stay the same."
        )
    return "Quantise the LLM, train a LoRA or a smaller rank, or use a larger device."


def ram() -> int:
    """Bytes of memory of this machine, or of the container that this runs in."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(installed, int(limit)) if limit.isdecimal() else installed


def peak_memory(device: torch.device) -> float:
    """Bytes that this process has had at most: on the GPU, or of RAM without one."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(peak_rss())


def optimizer_bytes(recipe: Recipe) -> float:
    """That the optimiser keeps for a trained weight; one that cannot be tried is taken for Adam."""
    try:
        kept = try_optimizer(expand(recipe)["optim_wrapper"]["optimizer"]).state_bytes
    except VlmtoolError:  # said elsewhere
        kept = None
    return ADAM_STATES * FLOAT32 if kept is None else kept


def checkpoint_bytes(model: VisionLanguageModel, recipe: Recipe) -> float:
    """A checkpoint on disk: the saved weights and, for the trained ones, the optimiser's state."""
    parameters = dict(model.named_parameters())
    saved = sum(parameters[name].numel() for name in saved_names(model))
    trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
    return FLOAT32 * saved + optimizer_bytes(recipe) * trained


def num_checkpoints(schedule: Schedule, steps: int | None, epochs: int) -> int:
    """How many lie on disk at once, at most: the ones that are kept, those of epochs, and the one being written.

    Args:
        steps: of the run; None where only the data tells.
        epochs: whole ones in the run.
    """
    of_epochs = epochs if schedule.save_epochs else 0
    if schedule.save_every is None:
        return of_epochs + 1
    saves = schedule.keep + 1 if steps is None else -(-steps // schedule.save_every)
    return of_epochs + min(schedule.keep + 1, saves)


def disk_row(num: int, each: float, work_dir: Path) -> Row:
    """Whether the checkpoints fit where they will be written; those of this run that lie there already are counted."""
    existing = next(p for p in (work_dir, *work_dir.absolute().parents) if p.is_dir())
    there = sum(f.stat().st_size for p in ("*.pth", "*.state/*") for f in work_dir.glob(p) if f.is_file())
    free = shutil.disk_usage(existing).free + there
    detail = f"{counted(num, 'checkpoint')} of {size(each)} at once, {size(free)} free in '{existing}'"
    if num * each <= free:
        return Row("ok", "disk", detail)
    return Row("error", "disk", detail, "Make room, give another --work-dir, or set schedule.keep lower.")


def size(num_bytes: float) -> str:
    """`1.2 GB`, `35 MB` or `8 kB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            number = num_bytes / scale
            return f"{number:.1f} {unit}" if number < 100 else f"{number:,.0f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def count(number: float) -> str:
    """`6.7 B`, `158 M` or `33 k`."""
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number / 1e3:.0f} k"
