"""Several commands are one training: two nodes with a command each, or processes that Slurm started."""

import signal
import subprocess
import time
from collections.abc import Sequence

import psutil
import pytest

from tests.engine.command import command, environment, hook, wait_for_step
from tests.engine.conftest import log_rows, losses
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint

# No dropout, and rates that do not depend on the number of steps.
SAME = ("llm.lora=dict(r=8, alpha=16)", "schedule.decay='constant'", "schedule.warmup_ratio=0")
TWO = (*SAME, "schedule.batch_size=2")  # with two processes 4 samples a step, as one process has
ENDLESS = "schedule.max_steps=100000"


def node(number: int, port: int) -> dict[str, str]:
    """Variables of one of two nodes, which find each other at an address of their own."""
    return {"NNODES": "2", "NODE_RANK": str(number), "ADDR": "127.0.0.2", "PORT": str(port)}


def slurm(task: int, port: int) -> dict[str, str]:
    """Variables of one of two tasks, as srun sets them."""
    return {
        "SLURM_PROCID": str(task), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(task), "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2", "PORT": str(port),
    }  # fmt: skip


def begin(words: Sequence[str], places: Sequence[dict[str, str]]) -> list[subprocess.Popen[str]]:
    """One process in each place, with the same command."""
    return [
        subprocess.Popen(words, env=environment(**place), stderr=subprocess.PIPE, text=True, start_new_session=True)
        for place in places
    ]


def end(runs: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes and what was said."""
    said = [run.communicate(timeout=300)[1] for run in runs]
    return [run.returncode for run in runs], said


@pytest.mark.soak
def test_two_nodes_are_one_process(run, small, tmp_path):
    one = run("one", *SAME, "schedule.max_steps=2")
    codes, said = end(
        begin(command(small, tmp_path / "two", *TWO, "schedule.max_steps=2"), [node(n, 29741) for n in (0, 1)])
    )
    assert codes == [0, 0], said
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)
    assert said[1] == "" and "Saved" in said[0]  # rank 0 tells, on its node


@pytest.mark.soak
def test_slurm_tasks_are_one_process_and_stop_on_its_signal(run, small, tmp_path):
    one, folder = run("one", *SAME, "schedule.max_steps=2"), tmp_path / "slurm"
    words = [*command(small, folder, *TWO, ENDLESS), "--launcher", "slurm"]
    tasks = begin(words, [slurm(task, 29742) for task in (0, 1)])
    wait_for_step(folder / "train_log.jsonl", 2, tasks[0])
    for task in tasks:
        task.send_signal(signal.SIGUSR1)  # scontrol signal, --signal=USR1@…: to every task
    codes, said = end(tasks)
    assert codes == [138, 138], said
    assert losses(folder)[:2] == pytest.approx(losses(one), rel=1e-5)
    newest = last_checkpoint(folder)
    assert newest is not None and read_checkpoint(newest).meta["step"] == max(log_rows(folder))
    assert f"Stopped by a signal. {newest}" in said[0] and said[1] == ""


def kill_all(run: subprocess.Popen[str]) -> None:
    """SIGKILL to a command and to all that it started, as when a machine is switched off."""
    for process in [*psutil.Process(run.pid).children(recursive=True), run]:
        process.kill()


@pytest.mark.soak
@pytest.mark.parametrize("dies", [0, 1])
def test_a_node_that_dies_ends_the_other(small, tmp_path, dies):
    """Node 0 has the address where all meet; the end of either is told by the other, and the run can go on."""
    words = command(small, tmp_path, *TWO, ENDLESS, "schedule.save_every=2")
    nodes = begin(words, [node(n, 29745) for n in (0, 1)])
    wait_for_step(tmp_path / "train_log.jsonl", 3, nodes[0])
    kill_all(nodes[dies])
    began = time.monotonic()
    codes, said = end(nodes)
    lives = 1 - dies
    assert codes[dies] == -9 and codes[lives] == 1 and time.monotonic() - began < 30, said
    (error,) = [line for line in said[lives].splitlines() if line.startswith("Error")]
    assert error.startswith(f"Error: rank {lives}: stopped, as another process is gone")
    assert "Traceback" not in said[lives]
    step = read_checkpoint(last_checkpoint(tmp_path)).meta["step"]
    again = [*words, "--set", f"schedule.max_steps={step + 2}", "--resume"]
    codes, said = end(begin(again, [node(n, 29746) for n in (0, 1)]))
    assert codes == [0, 0] and read_checkpoint(last_checkpoint(tmp_path)).meta["step"] == step + 2, said


@pytest.mark.soak
def test_a_slurm_tasks_own_error_is_told(small, tmp_path):
    """No parent collects them: each task prints its own, and only one knows the cause."""
    words = [*command(small, tmp_path, *TWO, ENDLESS, hook("FailingHook", step=1)), "--launcher", "slurm"]
    codes, said = end(begin(words, [slurm(task, 29747) for task in (0, 1)]))
    assert codes == [1, 1], said
    assert "Error: rank 1: only this process knows why" in said[1]
    assert "Error: rank 0: stopped, as another process is gone" in said[0]


NETWORKS = """
ip link set lo up
unshare -n sleep 600 & far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.1; done
ip link add near type veth peer name far netns $far
ip addr add 10.77.0.1/24 dev near && ip link set near up
nsenter -t $far -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev far && ip link set far up'
folder=$1; shift
NODE_RANK=0 GLOO_SOCKET_IFNAME=near "$@" 2> $folder/said_0 & first=$!
NODE_RANK=1 GLOO_SOCKET_IFNAME=far nsenter -t $far -n "$@" 2> $folder/said_1 & second=$!
(until [ -e $folder/cut ]; do kill -0 $first || exit; sleep 0.1; done; ip link set near down) 2> /dev/null &
wait $first; echo $? > $folder/code_0
wait $second; echo $? > $folder/code_1
kill $far
"""


@pytest.mark.soak
@pytest.mark.parametrize("is_cut", [False, True])
def test_two_networks(run, small, tmp_path, is_cut):
    """Each node has a network of its own, joined by one cable, which is pulled in the middle or not."""
    if subprocess.run(["unshare", "-rn", "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network name space")
    one, folder = run("one", *SAME, "schedule.max_steps=2"), tmp_path / "two"
    steps = ENDLESS if is_cut else "schedule.max_steps=2"
    words = command(small, folder, *TWO, steps, "runtime.hang_timeout=4.0")
    both = subprocess.Popen(
        ["unshare", "-rn", "sh", "-c", NETWORKS, "sh", str(tmp_path), *words],
        env=environment(NNODES="2", ADDR="10.77.0.1", PORT="29748"), stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        wait_for_step(folder / "train_log.jsonl", 2, both)
        if is_cut:
            (tmp_path / "cut").touch()
        both.wait(timeout=300)
    finally:
        if both.poll() is None:
            kill_all(both)
    said = [(tmp_path / f"said_{n}").read_text() for n in (0, 1)]
    codes = [int((tmp_path / f"code_{n}").read_text()) for n in (0, 1)]
    assert codes == ([1, 1] if is_cut else [0, 0]), said
    assert losses(folder)[:2] == pytest.approx(losses(one), rel=1e-5)
    if is_cut:
        assert all("No sign of life for 4 s" in words for words in said)
