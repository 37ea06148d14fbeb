"""Answers to fixed questions during training, by the generator that chat uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.chat.generator import GenerationSettings, Generator, Request
from vlmtool.engine.hooks.due import AFTER_SAVING, is_due, is_owed
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

    priority = AFTER_SAVING

    def __init__(self, generator: Generator, requests: Sequence[Request], every: int | None) -> None:
        self.generator, self.requests, self.every = generator, list(requests), every
        self.questions = [_question(request) for request in self.requests]

    def before_train(self, runner: Any) -> None:
        """Ask what the run before was stopped from asking."""
        if is_owed(runner, self.every, Path(runner.work_dir) / LOG_FILE, "question", self.questions):
            self._ask(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Ask if it is time."""
        if is_due(runner, self.every):
            self._ask(runner)

    def _ask(self, runner: Any) -> None:
        """One rank answers, the others go on to wait in the next step."""
        if not is_main():
            return
        runner.watch.enter(runner.iter - 1, "answering sample prompts")
        with runner.autocast():
            answers = self.generator.generate(self.requests, GenerationSettings(max_new_tokens=128))
        log = LogFile(Path(runner.work_dir) / LOG_FILE)
        for question, answer in zip(self.questions, answers, strict=True):
            err().print(f"step {runner.iter}  {clean(question)} → {clean(answer)}")
            log.append({"step": runner.iter, "question": question, "answer": answer})


def _question(request: Request) -> str:
    return "".join(part for part in request.messages[-1].content if isinstance(part, str)).strip()
