"""Answers to fixed questions during training, by the generator that chat uses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.chat.generator import GenerationSettings, Generator, Request
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
        is_last = runner.iter == runner.max_iters
        if not is_main() or not (is_last or (self.every is not None and runner.iter % self.every == 0)):
            return
        with runner.autocast():
            answers = self.generator.generate(self.requests, GenerationSettings(max_new_tokens=128))
        with open(Path(runner.work_dir) / LOG_FILE, "a", encoding="utf-8") as log:
            for request, answer in zip(self.requests, answers, strict=True):
                question = "".join(part for part in request.messages[-1].content if isinstance(part, str)).strip()
                err().print(f"step {runner.iter}  {clean(question)} → {clean(answer)}", markup=False)
                log.write(json.dumps({"step": runner.iter, "question": question, "answer": answer}) + "\n")
