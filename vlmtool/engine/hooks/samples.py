"""Answers to fixed questions during training, by the generator that chat uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.chat.generator import GenerationSettings, Generator, Request
from vlmtool.engine.hooks.due import is_due
from vlmtool.engine.log import LogFile
from vlmtool.utils.distributed import is_main
from vlmtool.utils.terminal import clean, err

LOG_FILE = "samples.jsonl"


class SamplesHook(Hook):
    """Asks the questions every `every` steps and at the end, greedily.

    Args:
        generator: over the model that is being trained.
        every: optimiser steps; None: at the end only.
    """

    def __init__(self, generator: Generator, requests: Sequence[Request], every: int | None) -> None:
        self.generator, self.requests, self.every = generator, list(requests), every

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Ask if it is time; one rank answers, the others go on to wait in the next step."""
        if not is_main() or not is_due(runner, self.every):
            return
        runner.watch.enter(runner.iter - 1, "answering sample prompts")
        with runner.autocast():
            answers = self.generator.generate(self.requests, GenerationSettings(max_new_tokens=128))
        log = LogFile(Path(runner.work_dir) / LOG_FILE)
        for request, answer in zip(self.requests, answers, strict=True):
            question = "".join(part for part in request.messages[-1].content if isinstance(part, str)).strip()
            err().print(f"step {runner.iter}  {clean(question)} → {clean(answer)}")
            log.append({"step": runner.iter, "question": question, "answer": answer})
