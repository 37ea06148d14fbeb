"""DeepSpeed's ZeRO: optimiser (1), gradients too (2), weights too (3) in one piece for each process; or on the CPU.

Source: https://arxiv.org/abs/1910.02054; settings: https://www.deepspeed.ai/docs/config-json/
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils.cpp_extension import get_default_build_root

from vlmtool.engine.deepspeed_checkpoint import SafeCheckpointEngine
from vlmtool.engine.strategies.data_parallel import DataParallel, always
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_names
from vlmtool.utils.distributed import is_main, world_size
from vlmtool.utils.errors import UsageError
from vlmtool.utils.terminal import clean, err

EXTENSION = "deepspeed_shm_comm"
PIECES = "deepspeed"  # folder of a checkpoint's state with each process's piece


class Zero(DataParallel):
    """A DeepSpeed engine around model and optimiser. Accumulation, rates and what is saved stay vlmtool's.

    Args:
        config: DeepSpeed's, complete (`zero_config.py`).
    """

    engine: Any

    def __init__(
        self,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        config: Mapping[str, Any],
    ) -> None:
        super().__init__(device, nullcontext)  # DeepSpeed ends what was begun outside: it is begun inside
        self._inside = autocast
        self.config = dict(config)
        self.stage = int(config["zero_optimization"]["stage"])
        self.is_sharded = self.stage == 3
        self._rates: list[float] | None = None

    def prepare(
        self, vlm: VisionLanguageModel, make_optimizer: Callable[[], OptimWrapper]
    ) -> tuple[nn.Module, OptimWrapper]:
        """The engine, and the optimiser, which now works on pieces."""
        if self.is_sharded and any(encoder.is_native for encoder in vlm.vision_encoder.encoders):
            raise UsageError(
                "runtime.strategy: stage 3 of DeepSpeed wants the same calls of the projector in all processes, and an "
                "encoder of native resolution makes one for each picture.\nTake deepspeed_zero2 or fsdp2."
            )
        self.optim_wrapper = make_optimizer()
        self._members = [{id(p) for p in group["params"]} for group in self.optim_wrapper.param_groups]
        _tell_local_rank(self.device)
        if self.device.type == "cpu" and is_main():
            for line in _compiling(Path(get_default_build_root())):
                err().print(clean(line))
        engine, *_ = deepspeed.initialize(
            model=Autocasting(vlm, self._inside), optimizer=self.optim_wrapper.optimizer, config=self.config
        )
        self._files = engine.checkpoint_engine = SafeCheckpointEngine()
        self.engine = engine
        return engine, self.optim_wrapper

    def micro_batch(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """The engine reduces and steps with the last micro-batch of a step."""
        self.engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: Tensor, is_usable: Callable[[], bool] = always) -> None:
        """Gradients of one micro-batch; those of a step to be left out become no numbers, which the engine sees."""
        self.engine.backward(loss if is_usable() else loss * float("nan"))

    def leave_out(self, parameters: Iterable[nn.Parameter]) -> None:
        """Their gradients are in one piece with others: their rate is 0 for this step, so that they stay."""
        left = {id(p) for p in parameters}
        self._rates = [group["lr"] for group in self.optim_wrapper.param_groups]
        for group, members in zip(self.optim_wrapper.param_groups, self._members, strict=True):
            if members & left:
                group["lr"] = 0.0

    def update(self, is_usable: bool) -> tuple[float, bool]:
        """The engine's step, which leaves out gradients that are no numbers."""
        self.engine.step()
        if self._rates is not None:
            for group, rate in zip(self.optim_wrapper.param_groups, self._rates, strict=True):
                group["lr"] = rate
            self._rates = None
        return float(self.engine.get_global_grad_norm()), self.engine.was_step_applied()

    def trained_weights(self, vlm: VisionLanguageModel) -> dict[str, Tensor]:
        """Put together one by one."""
        parameters, weights = dict(vlm.named_parameters()), {}
        for name in saved_names(vlm):
            with deepspeed.zero.GatheredParameters([parameters[name]], enabled=self.stage == 3):
                if is_main():
                    weights[name] = parameters[name].detach().cpu().clone()
        return weights

    def optimizer_state(self) -> Mapping[str, Any]:
        """What the pieces are; `write_pieces` writes them."""
        return {PIECES: f"stage {self.stage}, {world_size()} processes"}

    def write_pieces(self, folder: Path) -> None:
        """This process's piece."""
        self.engine.save_checkpoint(str(folder), tag=PIECES, save_latest=False, exclude_frozen_parameters=True)
        self._files.raise_problem()

    def load_optimizer_state(self, saved: dict[str, Any], folder: Path) -> None:
        """Put the pieces back, in as many processes as they were written by."""
        now = self.optimizer_state()[PIECES]
        if saved.get(PIECES) != now:
            then = saved.get(PIECES, "another strategy")
            raise ValueError(
                f"the optimiser was saved by {then}; this run is DeepSpeed {now}, which cannot cut it anew"
            )
        self.engine.load_checkpoint(str(folder), tag=PIECES, load_module_strict=False, load_lr_scheduler_states=False)


def _tell_local_rank(device: torch.device) -> None:
    """DeepSpeed asks the environment for this process's number, also where there is one only, and takes the GPU of that
    number: here the one that was picked, which is another where a process sees its own alone.
    """
    number = os.environ.get("LOCAL_RANK", "0") if device.index is None else str(device.index)
    os.environ["LOCAL_RANK"] = number
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:  # it wants the two to be equal
        os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = number


def _compiling(root: Path) -> list[str]:
    """What makes DeepSpeed's start on a CPU long, which it does in silence.

    Args:
        root: where torch compiles extensions.
    """
    if locks := sorted(root.glob(f"*/{EXTENSION}/lock")):
        return [
            f"DeepSpeed waits for another process that compiles its CPU extension. If there is none, one was killed "
            f"while it did: delete {locks[0]}"
        ]
    if not any(root.glob(f"*/{EXTENSION}/*.so")):
        return ["DeepSpeed compiles its CPU extension, once on a machine: one to two minutes."]
    return []


class Autocasting(nn.Module):
    """The composed model with mixed precision begun inside its forward pass."""

    def __init__(self, vlm: VisionLanguageModel, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.vlm = vlm
        self._autocast = autocast

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the model's."""
        with self._autocast():
            return self.vlm(*inputs, **named)
