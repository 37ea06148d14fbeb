"""Packed training takes the very steps of the padded one."""

import re

import pytest
import torch

from tests.engine.conftest import log_rows, losses
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.utils.errors import RecipeError

LORA = "llm.lora=dict(r=8, alpha=16)"  # no dropout: equalities
BASE = (
    LORA,
    "data.max_length=512",
    "schedule.batch_size=4",
    "schedule.accumulation=2",
    "schedule.save_every=2",
    "schedule.save_epochs=False",
)


def same(first, second, step=4):
    theirs = read_checkpoint(second / f"iter_{step}.pth").state_dict
    for name, weight in read_checkpoint(first / f"iter_{step}.pth").state_dict.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "more", [(), ("data.sampler='length'",), ("runtime.activation_checkpointing=True",), ("llm.quantization='nf4'",)]
)
def test_losses_and_weights_are_those_of_padded_batches(run, more, capsys):
    padded = run("padded", *BASE, *more)
    assert "Packed" not in capsys.readouterr().err
    packed = run("packed", *BASE, *more, "schedule.pack_to=512")
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-5)
    same(packed, padded)
    counts = re.search(r"(\d+) samples, [^\n]* ([\d,]+) tokens", said := capsys.readouterr().err)
    mean = int(counts[2].replace(",", "")) / int(counts[1])
    assert f"Packed into passes of up to 512 tokens, about {512 / mean:.1f} samples in each." in said


def test_the_held_out_loss_too(run, standins):
    held_out = (f"data.val_path={str(standins.data)!r}", "schedule.max_steps=1")
    padded, packed = run("padded", *BASE, *held_out), run("packed", *BASE, *held_out, "schedule.pack_to=600")
    told = [log_rows(folder, "val_log.jsonl")[1]["val_loss"] for folder in (padded, packed)]
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_a_padded_run_goes_on_packed(run, tmp_path):
    padded = run("padded", *BASE)
    packed = run("packed", *BASE, "schedule.pack_to=600", resume_from=padded / "iter_2.pth")
    same(packed, padded)


def test_a_budget_below_the_longest_sample_is_refused(run):
    with pytest.raises(RecipeError, match=r"schedule\.pack_to=100 below data\.max_length=512"):
        run("x", *BASE, "schedule.pack_to=100")
    with pytest.raises(RecipeError, match=r"llm\.prefix"):
        run("x", *BASE[1:], "llm.lora=None", "llm.prefix=dict(num_tokens=3)", "schedule.pack_to=600")
