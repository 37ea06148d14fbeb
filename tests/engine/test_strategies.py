"""Two processes under each strategy, against one: losses, weights, held-out loss, checkpoints, resuming, conversion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.command import ROOT, command, environment, start
from tests.engine.conftest import FINETUNE, log_rows, losses
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.folder import load_tensors
from vlmtool.utils.errors import CheckpointError

LORA = "llm.lora=dict(r=8, alpha=16)"  # no dropout: equalities
STRATEGIES = ("ddp", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
WHOLE = ["llm.lora=None", "llm.freeze=False", "vision_encoder.freeze=False", "vision_encoder.lr=1e-5"]
"""All weights, of which the encoder's last norm, behind the layer that is read, gets no gradient."""
PACKED = ["data.max_length=256", "schedule.pack_to=256"]
PACKED_RUNS = ("packed_ddp", "packed_fsdp2")
RELEASING = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
"""As a large model is trained: by itself stage 3 cuts no weight of less than 100,000 elements."""


def on_two(folder, small, runs, port):
    """Train `runs` of (name, overrides, checkpoint to go on from) one after another on two processes."""
    plan = json.dumps([[name, [*small, *overrides], start] for name, overrides, start in runs])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port),
        str(ROOT / "tests" / "engine" / "strategy_ranks.py"), FINETUNE, str(folder), plan,
    ]  # fmt: skip
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400, check=False)


def test_losses_weights_and_resumed_runs_equal_those_of_one_process(run, small, standins, tmp_path):
    common = [LORA, f"data.val_path={str(standins.data)!r}", "schedule.val_every=2", "schedule.save_every=2"]
    two = [*common, "schedule.batch_size=1", "schedule.accumulation=3"]
    one = run("one", *common, "schedule.batch_size=2", "schedule.accumulation=3")
    file = tmp_path / "releasing.json"
    file.write_text(json.dumps(RELEASING))
    runs = []
    for name in (*STRATEGIES, str(file)):
        folder, overrides = Path(name).stem, [*two, f"runtime.strategy={name!r}"]
        runs += [[folder, overrides, None], [f"{folder}_again", overrides, f"{folder}/iter_2.pth"]]
    exploding = [*runs[-1][1], "schedule.max_loss=0.01"]
    runs += [["from_fsdp2", two, "fsdp2/iter_2.pth"], ["exploded", exploding, f"{file.stem}/iter_2.pth"]]
    whole = [*WHOLE, "schedule.max_steps=2"]
    runs += [[f"packed_{name}", [*two, *PACKED, f"runtime.strategy={name!r}"], None] for name in ("ddp", "fsdp2")]
    runs.append(["whole", [*whole, "schedule.batch_size=1", "schedule.accumulation=3"], None])
    done = on_two(tmp_path, small, runs, 29640)
    assert done.returncode == 0, done.stderr[-6000:]
    whole_in_one = run("whole_in_one", *whole, "schedule.batch_size=2", "schedule.accumulation=3")
    assert losses(tmp_path / "whole") == pytest.approx(losses(whole_in_one), rel=1e-5)
    expected = read_checkpoint(one / "iter_4.pth").state_dict
    held_out = log_rows(one, "val_log.jsonl")[4]["val_loss"]
    for name in (*STRATEGIES, file.stem, *PACKED_RUNS):
        assert losses(tmp_path / name) == pytest.approx(losses(one), rel=1e-5), name
        assert log_rows(tmp_path / name, "val_log.jsonl")[4]["val_loss"] == pytest.approx(held_out, rel=1e-5), name
        weights = read_checkpoint(tmp_path / name / "iter_4.pth").state_dict
        for weight in expected:
            torch.testing.assert_close(weights[weight], expected[weight], rtol=1e-4, atol=1e-6)
        if name in PACKED_RUNS:
            continue
        again = read_checkpoint(tmp_path / f"{name}_again" / "iter_4.pth").state_dict
        for weight in expected:
            torch.testing.assert_close(again[weight], weights[weight], rtol=1e-4, atol=1e-6)
        converted = pth_to_hf(None, tmp_path / name / "iter_4.pth", tmp_path / f"{name}_hf", fp32=True)
        for weight, value in load_tensors(converted / "projector" / "model.safetensors").items():
            torch.testing.assert_close(value, expected[f"projector.{weight}"], rtol=1e-4, atol=1e-6)
    alone = [*common, "schedule.batch_size=1", "schedule.accumulation=6"]
    fsdp2 = tmp_path / "fsdp2" / "iter_2.pth"
    in_one = run("fsdp2_in_one", *alone, "runtime.strategy='fsdp2'", resume_from=fsdp2)
    for folder in (in_one, tmp_path / "from_fsdp2"):
        weights = read_checkpoint(folder / "iter_4.pth").state_dict
        for weight in expected:
            torch.testing.assert_close(weights[weight], expected[weight], rtol=1e-4, atol=1e-6)
    pieces = tmp_path / "deepspeed_zero2" / "iter_2.pth"
    with pytest.raises(CheckpointError, match=r"saved in pieces, .*stage 2, 2 processes.*; go on with the strategy"):
        run("pieces", *alone, resume_from=pieces)
    words = [*command(small, tmp_path / "fewer", *alone), "--deepspeed", "zero2", "--resume-from", str(pieces)]
    fewer = start(words)
    assert fewer.returncode == 1 and "was saved by stage 2, 2 processes; this run is DeepSpeed" in fewer.stderr
    assert "init_from" in fewer.stderr and "Traceback" not in fewer.stderr
    assert [row["skipped"] for row in log_rows(tmp_path / "exploded").values()] == [True, True]
    before = read_checkpoint(tmp_path / file.stem / "iter_2.pth").state_dict
    after = read_checkpoint(tmp_path / "exploded" / "iter_4.pth").state_dict
    assert all(torch.equal(before[weight], after[weight]) for weight in expected)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_one_process_by_itself_takes_an_engine_too(run, small, tmp_path, name):
    """Without NPROC_PER_NODE, as on a machine with one GPU."""
    settings = [LORA, "schedule.max_steps=2"]
    done = start([*command(small, tmp_path / name, *settings), "--deepspeed", name])
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / name) == pytest.approx(losses(run("plain", *settings)), rel=1e-5)


WAYS = {
    "nf4": ["llm.lora=dict(r=8, alpha=16)", "llm.quantization='nf4'", "runtime.activation_checkpointing=True"],
    "full": [
        "llm.lora=None", "llm.freeze=False", "vision_encoder.lora=dict(r=4, alpha=8)", "vision_encoder.freeze=None",
        "vision_encoder.lr=1e-5",
    ],
    "whole": WHOLE,
    "dora": ["llm.lora=dict(r=8, alpha=16, dora=True)"],
    "prefix": ["llm.lora=None", "llm.freeze=None", "llm.prefix=dict(num_tokens=3)"],
    "packed": [LORA, *PACKED],
    "tiles": [LORA, "vision_encoder.tiles=((1, 2), (2, 1))", "data.pad_to_square=False"],
    "random": [LORA, "data.sampler='random'"],  # steps in which a process meets no picture
    "exploded": [LORA, "schedule.max_loss=0.01"],
    "bad": [  # the second pass over the projector gives what is no number, in each process
        LORA, "projector.type='tests.engine.faults.MoodyProjector'", "projector.forward_at=[2]",
    ],
}  # fmt: skip
OFFLOADING = ("deepspeed_zero2_offload", "deepspeed_zero3_offload")


@pytest.mark.soak
@pytest.mark.parametrize("strategy", [*STRATEGIES[1:], *OFFLOADING])
def test_every_way_of_tuning_learns_the_same_as_under_ddp(small, tmp_path, strategy):
    common = ["schedule.batch_size=2", "schedule.accumulation=2", "schedule.max_steps=3"]
    runs = [
        [f"{way}_{name}", [*common, *overrides, f"runtime.strategy={name!r}"], None]
        for name in ("ddp", strategy)
        for way, overrides in WAYS.items()
    ]
    done = on_two(tmp_path, small, runs, 29641)
    assert done.returncode == 0, done.stderr[-6000:]
    for way in WAYS:
        ours, ddp = (log_rows(tmp_path / f"{way}_{name}") for name in (strategy, "ddp"))
        assert [row["skipped"] for row in ours.values()] == [row["skipped"] for row in ddp.values()], way
        kept = [step for step, row in ddp.items() if not row["skipped"]]
        assert [ours[s]["loss"] for s in kept] == pytest.approx([ddp[s]["loss"] for s in kept], rel=1e-5), way
