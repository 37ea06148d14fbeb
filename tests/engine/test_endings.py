"""How a run ends: workers go with it, and a person is told what there is to know."""

import signal
import time

import psutil
import pytest

from tests.engine.command import command, environment, hook, start, wait_for_step
from tests.engine.conftest import log_rows
from vlmtool.engine.batches import draw, workers_of
from vlmtool.engine.hooks.progress import LOG_FILE
from vlmtool.engine.run_folder import RECIPE_FILE
from vlmtool.models.checkpoint import last_checkpoint
from vlmtool.utils.errors import VlmtoolError

SLOW = ["data.num_workers=2", "schedule.max_steps=400"]


def begin(words: list[str]) -> psutil.Popen:
    return psutil.Popen(words, env=environment(), stdout=-1, stderr=-1, text=True)


def test_a_killed_worker_is_told_with_what_to_do(small, tmp_path):
    run = begin(command(small, tmp_path / "run", *SLOW))
    wait_for_step(tmp_path / "run" / LOG_FILE, 1, run)
    workers = [child for child in run.children(recursive=True) if child.num_threads() >= 1]
    workers[0].send_signal(signal.SIGKILL)
    _, words = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "A process that reads the data ended" in words and "data.num_workers" in words and "--resume" in words
    deadline = time.monotonic() + 10
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline, "a worker is left behind"
        time.sleep(0.1)


class KilledWorker:
    """A loader's iterator as torch's is once a worker was killed: each process that ends tells of it again."""

    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    def __iter__(self):
        return self

    def __next__(self):
        raise self.error

    def _shutdown_workers(self):
        raise self.error


def test_a_killed_worker_is_told_though_torch_tells_again():
    with (
        pytest.raises(VlmtoolError, match="A process that reads the data ended"),
        workers_of(KilledWorker()) as batches,
    ):
        next(batches)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_is_killed_while_it_hands_over_a_batch_is_told(error):
    def batches():
        raise error
        yield

    with pytest.raises(VlmtoolError, match=r"A process that reads the data ended: (.*reset by peer|EOFError)\.\n"):
        draw(batches())


def test_an_error_of_what_a_worker_read_stays_itself():
    def batches():
        raise ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0.")
        yield

    with pytest.raises(ConnectionResetError):
        draw(batches())


def test_a_run_that_fails_while_workers_live_ends(small, tmp_path):
    """The last save fails: the error's traceback holds on to the loader, whose workers leave SIGTERM to the run."""
    words = command(small, tmp_path / "run", "data.num_workers=2", hook("FullDiskHook"))
    done = start(words)
    assert done.returncode == 1 and "could not be written" in done.stderr, done.stderr


def test_a_refused_resume_leaves_the_recipe_of_the_run(run, small, tmp_path):
    folder = run("run", "llm.lora=dict(r=8, alpha=16)", "schedule.save_every=2")
    before = (folder / RECIPE_FILE).read_bytes()
    done = start([*command(small, folder, "llm.lora=dict(r=4, alpha=16)"), "--resume"])
    assert done.returncode == 1, done.stderr
    assert (folder / RECIPE_FILE).read_bytes() == before


def test_a_finished_run_says_that_there_is_nothing_to_train(run, small, tmp_path):
    folder = run("run")
    done = start([*command(small, folder), "--resume"])
    assert done.returncode == 0 and "there was nothing to train" in done.stderr


def test_skipped_steps_are_counted_at_the_end_and_not_saved(small, tmp_path):
    folder = tmp_path / "run"
    words = command(small, folder, "schedule.max_loss=1e-6", "schedule.save_every=1", "schedule.max_skipped=9")
    done = start(words)
    assert done.returncode == 0 and "4 of 4 steps were skipped" in done.stderr
    assert last_checkpoint(folder) == folder / "iter_4.pth"  # the last step is always saved
    assert not list(folder.glob("iter_[123].pth"))


@pytest.mark.parametrize(("optimizer", "works"), [("torch.optim.SGD", True), ("torch.nn.Linear", False)])
def test_other_optimizers_get_what_they_take(small, tmp_path, optimizer, works):
    done = start(command(small, tmp_path / "run", f"schedule.optimizer='{optimizer}'"))
    assert (done.returncode == 0) == works, done.stderr
    if works:
        assert len(log_rows(tmp_path / "run", LOG_FILE)) == 4
    else:
        assert "schedule.optimizer" in done.stderr and "--debug" not in done.stderr
