"""mmengine's Runner with checkpoints that hold no pickled objects, DDP on any device, and resuming without replay.

Overridden through its public methods: its own checkpoints hold a pickled message hub, which `weights_only` refuses.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from vlmtool.engine.device import autocast
from vlmtool.engine.saving import save_checkpoint
from vlmtool.engine.state import load_state
from vlmtool.engine.strategies.data_parallel import DataParallel
from vlmtool.engine.watch import Watch
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.lineage import Guard
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import load_weights, saved_names
from vlmtool.utils.distributed import world_size


class VlmRunner(Runner):
    """Drives a training.

    Args:
        meta: what every checkpoint says of its origin (`models.checkpoint.Checkpoint.meta`).
        compute_dtype: autocast type, None for none.
        watch: is told what this rank does, step by step.
        strategy: how weights, gradients and the optimiser lie over the processes.
        start: checkpoint to go on from.
        force: go on from it where the run now draws other samples; it is recorded in `meta`.
        arguments: of mmengine's Runner.
    """

    _train_loop: Any
    optim_wrapper: Any
    param_schedulers: Any

    def __init__(
        self,
        *,
        meta: dict[str, Any],
        device: torch.device,
        compute_dtype: torch.dtype | None,
        watch: Watch,
        strategy: DataParallel,
        start: Path | None = None,
        force: bool = False,
        **arguments: Any,
    ):
        self.meta = meta
        self.start = start
        self.force = force
        self.watch = watch
        self.strategy = strategy
        self.device = device
        self.compute_dtype = compute_dtype
        self.vlm: VisionLanguageModel = arguments["model"]
        """The model without what the strategy puts around it."""
        super().__init__(**arguments, resume=start is not None, load_from=str(start) if start is not None else None)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass, where the recipe wants it."""
        return autocast(self.device, self.compute_dtype)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Nothing yet: the strategy does so once the weights to start from are in their place."""
        return model

    def train(self) -> nn.Module:
        """Build what is still lazy, resume if asked, run the loop.

        mmengine's own asks the model for a `train_step`, which the step loop has no use for.
        """
        self._train_loop = self.build_train_loop(self._train_loop)
        meta = self.load_checkpoint(str(self.start)) if self.start is not None else {}
        given: Any = self.optim_wrapper
        self.model, self.optim_wrapper = self.strategy.prepare(self.vlm, lambda: self.build_optim_wrapper(given))
        self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        self.call_hook("before_run")
        if self.start is not None:
            self.resume(str(self.start), meta=meta)
        self.optim_wrapper.initialize_count_status(self.model, self.train_loop.iter, self.train_loop.max_iters)
        self.watch.start()
        try:
            return self.train_loop.run()
        finally:
            self.watch.stop()
            self.call_hook("after_run")

    def dump_config(self) -> None:
        """Nothing: the run's own recipe stands in the work dir."""

    def save_checkpoint(self, out_dir: str, filename: str, **_: Any) -> None:
        """Write `filename` and its `.state` folder, then move `last_checkpoint`; called by every rank."""
        weights = self.strategy.trained_weights(self.vlm)
        meta = {**self.meta, "step": self.iter, "epoch": self.epoch, "processes": world_size()}
        save_checkpoint(Path(out_dir) / filename, self, meta, weights)

    def load_checkpoint(self, filename: str, **_: Any) -> dict[str, Any]:
        """Put the trained weights of a checkpoint into the model; returns its meta."""
        checkpoint = read_checkpoint(filename, "resume")
        load_weights(self.vlm, checkpoint.state_dict, str(filename), saved_names(self.vlm))
        return checkpoint.meta

    def resume(self, filename: str, meta: dict[str, Any] | None = None, **_: Any) -> None:
        """Optimiser, place in the schedule and in the data, random states, as they were; the weights are there already.

        Args:
            meta: of the checkpoint.
        """
        meta = meta or self.load_checkpoint(filename)
        self.train_loop.restart_at(meta["step"])
        guard = Guard(self.force)
        load_state(Path(filename), meta, self, guard)
        self.meta["forced"] = list(dict.fromkeys([*self.meta["forced"], *guard.overridden]))
