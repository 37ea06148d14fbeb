"""Every process holds the whole model; gradients are averaged over them (DDP). One process is the same without that."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_state
from vlmtool.utils.distributed import is_distributed, is_main, share_trained, world_size

ON_THE_WAY = 0.005  # seconds that gradients may take when all processes have theirs


def always() -> bool:
    """True."""
    return True


class DataParallel:
    """The default; what other strategies do differently they override.

    The loop calls `backward` for each micro-batch of a step inside `micro_batch`, then `update` once.

    Args:
        device: of this process.
        autocast: mixed precision for the forward pass.
    """

    is_sharded = False
    """Weights lie in pieces: every forward pass is made by all processes together."""

    optim_wrapper: OptimWrapper

    def __init__(self, device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.device = device
        self.autocast = autocast
        self._averaging: list[dist.Work] = []

    def prepare(
        self, vlm: VisionLanguageModel, make_optimizer: Callable[[], OptimWrapper]
    ) -> tuple[nn.Module, OptimWrapper]:
        """The model that takes batches, and the optimiser of what is trained of `vlm`, which has its first weights."""
        model = self.wrap(vlm)
        self.optim_wrapper = make_optimizer()
        return model, self.optim_wrapper

    def wrap(self, vlm: VisionLanguageModel) -> nn.Module:
        """DDP where there are several processes; the model is already on its device."""
        if not is_distributed():
            return vlm
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # DDP's own start would copy every frozen weight over itself too: each process would hold all of them in its own
        # memory, where they can be pages of the file that all share.
        share_trained(vlm)
        # Of a fully trained encoder, what follows the layer that is read (its last norm) never gets a gradient.
        is_whole = all(p.requires_grad for p in vlm.vision_encoder.parameters())
        wrapped = DistributedDataParallel(
            vlm, device_ids=device_ids, broadcast_buffers=False, init_sync=False, find_unused_parameters=is_whole,
            gradient_as_bucket_view=True,  # so that a gradient that is there is one that will be the average
        )  # fmt: skip
        wrapped.register_comm_hook(self._averaging, _begin_averaging)
        return wrapped

    def micro_batch(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Around the passes of one micro-batch: gradients are reduced with the last one of a step."""
        if isinstance(model, DistributedDataParallel) and not is_last:
            return model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor, is_usable: Callable[[], bool] = always) -> None:
        """Gradients of one micro-batch.

        Args:
            loss: its share of the step's, times the number of processes, over which gradients are averaged.
            is_usable: False with the last micro-batch of a step that `update` is to leave out; asking waits for the
                losses of all processes.
        """
        self.optim_wrapper.backward(loss)

    def is_early(self) -> bool:
        """Others' gradients are not there yet: there is time for what does not depend on them."""
        end = time.monotonic() + ON_THE_WAY
        while not all(work.is_completed() for work in self._averaging):
            if time.monotonic() > end:
                return True
            time.sleep(ON_THE_WAY / 10)
        return False

    def wait(self) -> None:
        """For the gradients of all processes."""
        while self._averaging:
            self._averaging.pop().wait()

    def leave_out(self, parameters: Iterable[nn.Parameter]) -> None:
        """The step says nothing on these weights: their momentum must not move them."""
        for parameter in parameters:
            parameter.grad = None

    def update(self, is_usable: bool) -> tuple[float, bool]:
        """Step, unless the loss is not usable or a gradient is no number; then forget the gradients.

        Returns:
            Norm of all gradients before clipping, the same in every process; whether the weights were moved.
        """
        norm = self.grad_norm()
        # An overflow of scaled float16 gradients is its scaler's to skip.
        steps = is_usable and (self._scaler is not None or math.isfinite(norm))
        if steps:
            self.optim_wrapper.step()
        self.optim_wrapper.zero_grad(set_to_none=True)
        return norm, steps

    def grad_norm(self) -> float:
        """Of all gradients; after the reduction the same in every process."""
        norm = float(torch.nn.utils.get_total_norm(self._gradients()))
        return norm / float(self._scaler.get_scale()) if self._scaler is not None else norm

    def trained_weights(self, vlm: VisionLanguageModel) -> dict[str, Tensor]:
        """What a checkpoint holds, on the CPU, in the main process; called by all."""
        return saved_state(vlm) if is_main() else {}

    def optimizer_state(self) -> Mapping[str, Any]:
        """Whole, in the main process; called by all. Plain values and tensors, weights by their number."""
        return self.optim_wrapper.state_dict() if is_main() else {}

    def write_pieces(self, folder: Path) -> None:
        """What each process writes itself of the optimiser; here nothing."""

    def load_optimizer_state(self, saved: dict[str, Any], folder: Path) -> None:
        """Put `optimizer_state` back, in every process.

        Args:
            folder: with what `write_pieces` wrote.

        Raises:
            KeyError, ValueError, TypeError: it does not fit.
        """
        if "state" not in saved:
            raise ValueError(f"the optimiser was saved in pieces, by {saved}; go on with the strategy of then")
        for group, now in zip(saved["param_groups"], self.optim_wrapper.optimizer.param_groups, strict=True):
            group["fused"] = now.get("fused")  # it decides on which device the number of steps is put
        self.optim_wrapper.load_state_dict(saved)

    @property
    def _scaler(self) -> Any:
        return getattr(self.optim_wrapper, "loss_scaler", None)

    def _parameters(self) -> list[nn.Parameter]:
        """Trained weights, in the order of the optimiser's groups."""
        return [p for group in self.optim_wrapper.param_groups for p in group["params"]]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters() if p.grad is not None]


def _begin_averaging(averaging: list[dist.Work], bucket: dist.GradBucket) -> Future[Tensor]:
    """Averages in place, and does not wait: DDP is told that it is done, and `DataParallel.wait` sees to it."""
    gradients = bucket.buffer().div_(world_size())
    averaging.append(dist.all_reduce(gradients, async_op=True))
    done: Future[Tensor] = Future(devices=[gradients.device] if gradients.is_cuda else None)
    done.set_result(gradients)
    return done
