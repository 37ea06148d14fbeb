"""Weights, gradients and optimiser cut into one piece for each process: FSDP2 (`torch.distributed.fsdp.fully_shard`).

A block of the language model is put together where it is used, and taken apart again; all else once a pass.
Source: https://arxiv.org/abs/2304.11277 and https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vlmtool.engine.strategies.data_parallel import DataParallel
from vlmtool.models.llm import blocks_of
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_names
from vlmtool.utils.distributed import is_main, world_size


class FullyShardedDataParallel(DataParallel):
    """FSDP2. What a checkpoint holds is put together first, so that any number of processes, and DDP, can go on."""

    is_sharded = True

    def wrap(self, vlm: VisionLanguageModel) -> nn.Module:
        """`vlm` itself, its weights now pieces. Frozen encoders and quantised weights stay whole in every process."""
        mesh = init_device_mesh(self.device.type, (world_size(),))
        whole = {p for p in vlm.parameters() if not p.is_floating_point()}
        whole |= {p for p in vlm.vision_encoder.parameters() if not p.requires_grad}
        for block in blocks_of(vlm.llm):
            fully_shard(block, mesh=mesh, ignored_params=whole & set(block.parameters()))
        fully_shard(vlm, mesh=mesh, ignored_params=whole)
        return vlm

    def micro_batch(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients are reduced with the last micro-batch of a step."""
        return _reducing(model, is_last)

    def grad_norm(self) -> float:
        """Of all pieces."""
        norm = torch.nn.utils.get_total_norm(self._gradients())
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def trained_weights(self, vlm: VisionLanguageModel) -> dict[str, Tensor]:
        """Put together one by one."""
        parameters = dict(vlm.named_parameters())
        whole = ((name, _whole(parameters[name].detach())) for name in saved_names(vlm))
        return {name: value.cpu().clone() for name, value in whole if is_main()}

    def optimizer_state(self) -> Mapping[str, Any]:
        """As of whole weights."""
        saved = self.optim_wrapper.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for number, values in saved["state"].items():
            whole = {key: _whole(value) if isinstance(value, Tensor) else value for key, value in values.items()}
            if is_main():
                state[number] = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in whole.items()}
        return {**saved, "state": state} if is_main() else {}

    def load_optimizer_state(self, saved: dict[str, Any], folder: Path) -> None:
        """Each process takes its pieces."""
        parameters = self._parameters()
        pieces = {
            number: {key: _piece(value, parameters[int(number)]) for key, value in values.items()}
            for number, values in saved.get("state", {}).items()
        }
        super().load_optimizer_state({**saved, "state": pieces} if "state" in saved else saved, folder)


@contextmanager
def _reducing(model: nn.Module, is_last: bool) -> Iterator[None]:
    if not isinstance(model, FSDPModule):
        raise TypeError("not wrapped by FSDP2")
    model.set_requires_gradient_sync(is_last)
    yield


def _whole(value: Tensor) -> Tensor:
    """The tensor of which every process holds a piece."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _piece(value: Any, like: nn.Parameter) -> Any:
    """This process's piece of a whole tensor, cut as a weight of the same shape is."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
