"""From a recipe's `runtime.strategy` to the strategy."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from vlmtool.engine.strategies.data_parallel import DataParallel
from vlmtool.engine.strategies.zero_config import complete, zero_settings
from vlmtool.recipe.schema import Recipe
from vlmtool.utils.distributed import world_size


def make_strategy(
    recipe: Recipe, device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]
) -> DataParallel:
    """The recipe's; DeepSpeed and FSDP2 are imported where they are asked for.

    Args:
        autocast: mixed precision for the forward pass.
    """
    name = recipe.runtime.strategy
    if name == "ddp":
        return DataParallel(device, autocast)
    if name == "fsdp2":
        from vlmtool.engine.strategies.fully_sharded import FullyShardedDataParallel

        return FullyShardedDataParallel(device, autocast)
    from vlmtool.engine.strategies.zero import Zero

    schedule = recipe.schedule
    settings = complete(
        zero_settings(name), schedule.batch_size, schedule.accumulation, schedule.clip_grad, world_size()
    )
    return Zero(device, autocast, settings)
