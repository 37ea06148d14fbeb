"""What went wrong without ending the run: skipped steps and bad samples, each listed in a file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from vlmtool.data.dataset import BadSample, ConversationDataset
from vlmtool.data.mixture import Mixture
from vlmtool.engine.log import LogFile, read_log
from vlmtool.engine.loop import SKIPPED_FILE, StepResult
from vlmtool.utils.distributed import is_main
from vlmtool.utils.errors import DataError
from vlmtool.utils.terminal import clean, err

BAD_SAMPLES_FILE = "bad_samples.jsonl"
MAX_BAD_SHARE = 0.01  # of a file's samples; more is no accident, and the rest may be wrong in ways that nothing notices


class TroubleHook(Hook):
    """Lists skipped steps with their samples, and bad training samples; too many of these end the run."""

    def before_train(self, runner: Any) -> None:
        """List what was found bad before the first step."""
        self._note(runner, runner.train_loop.dataloader.dataset.bad, None)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """List what this step met."""
        result: StepResult = outputs
        if result.skipped and is_main():
            row = {
                "step": runner.iter,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "samples": runner.train_loop.sample_ids(batch_idx),
            }
            LogFile(Path(runner.work_dir) / SKIPPED_FILE).append(row)
            err().print(
                f"step {runner.iter}  skipped: loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}; "
                f"its samples stand in {SKIPPED_FILE}",
            )
        self._note(runner, result.bad_samples, runner.iter)

    def _note(self, runner: Any, samples: Sequence[BadSample], step: int | None) -> None:
        loop = runner.train_loop
        note_bad_samples(Path(runner.work_dir), loop.dataloader.dataset, loop.bad_samples, samples, step)


def note_bad_samples(
    run_folder: Path,
    dataset: ConversationDataset | Mixture,
    known: dict[str, None],
    samples: Sequence[BadSample],
    step: int | None,
    what: str = "samples",
) -> None:
    """List bad samples that are new; called by every rank, with the same ones.

    Args:
        dataset: that they belong to.
        known: origins of its bad samples so far; those of `samples` are added.
        step: in which they were met; None: before the first.
        what: the samples of this data set, as messages call them.

    Raises:
        DataError: too many are bad of the data set, or of one in a mixture.
    """
    new = [sample for sample in dict.fromkeys(samples) if sample.origin not in known]
    known.update(dict.fromkeys(sample.origin for sample in new))
    if not new:
        return
    file = run_folder / BAD_SAMPLES_FILE
    if is_main():
        _list(file, new, step, what)
    for part in dataset.parts:
        num_bad, total = part.count_among(known), len(part) + len(part.bad)
        if num_bad > MAX_BAD_SHARE * total:
            named = f"{what} of {part.name}" if len(dataset.parts) > 1 else what
            raise DataError(
                f"{num_bad} of {total} {named} cannot be used, more than {MAX_BAD_SHARE:.0%}: listed in {file}\n"
                "Mend the data: `vlmtool data check RECIPE --deep` finds all that is wrong with it."
            )


def _list(file: Path, samples: Sequence[BadSample], step: int | None, what: str) -> None:
    """Write down those that do not stand in the file yet: a run that goes on meets the same ones again."""
    listed = {row.get("origin") for row in read_log(file)}
    new = [sample for sample in samples if sample.origin not in listed]
    log = LogFile(file)
    for sample in new:
        log.append({"step": step, **asdict(sample)})
    if new:
        named = f"{len(new)} bad {what}" if len(new) > 1 else f"bad {what[:-1]} '{new[0].id}'"
        err().print(clean(f"{named} skipped ({new[0].reason}); listed in {file}"))
