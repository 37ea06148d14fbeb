"""mmengine's Runner with checkpoints that hold no pickled objects, DDP on any device, and resuming without replay.

Overridden through its public methods: its own checkpoints hold a pickled message hub, which `weights_only` refuses.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vlmtool.engine.saving import save_checkpoint
from vlmtool.engine.state import load_state
from vlmtool.engine.watch import Watch
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.lineage import Guard
from vlmtool.models.weights import load_weights, saved_names, saved_state
from vlmtool.utils.distributed import is_main, share_trained


class VlmRunner(Runner):
    """Drives a training.

    Args:
        meta: what every checkpoint says of its origin (`models.checkpoint.Checkpoint.meta`).
        compute_dtype: autocast type, None for none.
        watch: is told what this rank does, step by step.
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
        start: Path | None = None,
        force: bool = False,
        **arguments: Any,
    ):
        self.meta = meta
        self.start = start
        self.force = force
        self.watch = watch
        self.device = device
        self.compute_dtype = compute_dtype
        super().__init__(**arguments, resume=start is not None, load_from=str(start) if start is not None else None)

    @property
    def vlm(self) -> Any:
        """The model without its data-parallel wrapper."""
        return getattr(self.model, "module", self.model)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass, where the recipe wants it."""
        if self.compute_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """DDP where there are several processes; the model is already on its device."""
        if not self.distributed:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # DDP's own start would copy every frozen weight over itself too: each process would hold all of them in its own
        # memory, where they can be pages of the file that all share.
        share_trained(model)
        return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False, init_sync=False)

    def train(self) -> nn.Module:
        """Build what is still lazy, resume if asked, run the loop.

        mmengine's own asks the model for a `train_step`, which the step loop has no use for.
        """
        self._train_loop = self.build_train_loop(self._train_loop)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        self.call_hook("before_run")
        if self.start is not None:
            self.resume(str(self.start))
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
        weights = saved_state(self.vlm) if is_main() else {}
        save_checkpoint(Path(out_dir) / filename, self, {**self.meta, "step": self.iter, "epoch": self.epoch}, weights)

    def load_checkpoint(self, filename: str, **_: Any) -> dict[str, Any]:
        """Put the trained weights of a checkpoint into the model; returns its meta."""
        checkpoint = read_checkpoint(filename, "resume")
        load_weights(self.vlm, checkpoint.state_dict, str(filename), saved_names(self.vlm))
        return checkpoint.meta

    def resume(self, filename: str, **_: Any) -> None:
        """Weights, optimiser, place in the schedule and in the data, random states, as they were."""
        meta = self.load_checkpoint(filename)
        self.train_loop.restart_at(meta["step"])
        guard = Guard(self.force)
        load_state(Path(filename), meta, self, guard)
        self.meta["forced"] = list(dict.fromkeys([*self.meta["forced"], *guard.overridden]))
