"""What a resumed run takes from its checkpoint, and what from its recipe."""

import json
from pathlib import Path

import pytest
import torch

from tests.engine.command import command, start
from tests.engine.conftest import PRETRAIN, log_rows
from vlmtool.engine.schedule import lr_factor
from vlmtool.models.checkpoint import read_checkpoint, safe_load
from vlmtool.utils.errors import CheckpointError

PEAK = ("projector.lr=None", "schedule.lr=2e-4", "schedule.warmup_ratio=0.0")


def rates(folder: Path) -> dict[int, float]:
    """Learning rate of the projector, by step."""
    return {step: row["lr"]["projector"] for step, row in log_rows(folder).items()}


def test_a_longer_run_decays_over_its_own_length(small, tmp_path):
    """The command that a reader types when a run was too short."""
    words = command(small, tmp_path, *PEAK)
    assert start(words).returncode == 0
    done = start([*words, "--resume", "--set", "schedule.max_steps=8"])
    assert done.returncode == 0, done.stderr
    found = rates(tmp_path)
    assert [found[step] for step in range(1, 5)] == [2e-4 * lr_factor(step, 4, 0, "cosine") for step in range(4)]
    assert [found[step] for step in range(5, 9)] == [2e-4 * lr_factor(step, 8, 0, "cosine") for step in range(4, 8)]


def test_a_changed_schedule_counts_and_is_recorded(run):
    folder = run("run", *PEAK)
    changed = ("schedule.lr=5e-4", "llm.lr=3e-5", "schedule.decay='constant'", "schedule.weight_decay=0.3")
    run("run", *PEAK, *changed, "schedule.betas=(0.8, 0.9)", "schedule.max_steps=6", resume=True)
    assert [log_rows(folder)[step]["lr"] for step in (5, 6)] == [{"projector": 5e-4, "llm": 3e-5}] * 2
    groups = safe_load(folder / "iter_6.state" / "optimizer.pt")["param_groups"]
    assert [(g["weight_decay"], tuple(g["betas"])) for g in groups] == [(0.3, (0.8, 0.9))] * 2
    assert {g["name"]: g["initial_lr"] for g in groups} == {"projector": 5e-4, "llm": 3e-5}
    schedule = read_checkpoint(folder / "iter_6.pth").meta["recipe"]["schedule"]
    assert (schedule["lr"], schedule["decay"], schedule["weight_decay"]) == (5e-4, "constant", 0.3)


def test_moments_go_on(run):
    """AdamW counts its steps; the count is part of what is restored."""
    folder = run("run")
    run("run", "schedule.lr=1e-5", "schedule.max_steps=6", resume=True)
    state = safe_load(folder / "iter_6.state" / "optimizer.pt")["state"]
    assert max(int(values["step"]) for values in state.values()) == 6  # the projector's rest in steps without images


def test_a_schedule_of_mmengines_own_goes_on_as_it_was(run):
    """Its values follow one from the other."""
    halving = "mmengine=dict(param_scheduler=[dict(type='ExponentialLR', gamma=0.5, by_epoch=False, end=99)])"
    folder = run("run", *PEAK, halving, "schedule.max_steps=2")
    run("run", *PEAK, halving, "schedule.max_steps=4", resume=True)
    assert [rates(folder)[step] for step in range(1, 5)] == pytest.approx([2e-4, 1e-4, 5e-5, 2.5e-5])


@pytest.fixture
def other_data(standins, tmp_path) -> str:
    """As many records, with other answers."""
    records = json.loads(standins.data.read_text())
    for record in records:
        record["conversations"][1]["value"] = "Something quite different."
    (tmp_path / "other.json").write_text(json.dumps(records))
    return f"data.path={str(tmp_path / 'other.json')!r}"


@pytest.mark.parametrize("sampler", ["random", pytest.param("length", marks=pytest.mark.soak)])
def test_other_data_of_the_same_size_are_refused_and_can_be_forced(small, run, other_data, tmp_path, sampler):
    extra = (f"data.sampler='{sampler}'", "schedule.max_steps=6")
    folder = run("run", extra[0])
    words = command(small, folder, *extra, other_data)
    refused = start([*words, "--resume"])
    assert refused.returncode == 1 and "data file" in refused.stderr and "--force" in refused.stderr, refused.stderr
    assert ("lengths of the samples" in refused.stderr) == (sampler == "length")
    assert len([line for line in refused.stderr.splitlines() if line.startswith("Error")]) == 1
    assert sorted(log_rows(folder)) == [1, 2, 3, 4]
    done = start([*words, "--resume", "--force"])
    assert done.returncode == 0 and "Forced." in done.stderr, done.stderr
    forced = read_checkpoint(folder / "iter_6.pth").meta["forced"]
    assert len(forced) == 1 and "data file" in forced[0]


def test_other_lengths_change_the_batches_of_the_length_sampler(run):
    run("run", "data.sampler='length'")
    with pytest.raises(CheckpointError, match="lengths of the samples .*→"):
        run("run", "data.sampler='length'", "data.max_length=30", "schedule.max_steps=6", resume=True)


def test_the_same_data_elsewhere_are_the_same(run, standins, tmp_path):
    run("run")
    copy = tmp_path / "copy.json"
    copy.write_bytes(standins.data.read_bytes())
    folder = run("run", f"data.path={str(copy)!r}", "schedule.max_steps=5", resume=True)
    assert (folder / "iter_5.pth").is_file()


def test_more_or_fewer_samples_cannot_be_forced(run, standins, tmp_path):
    run("run")
    (tmp_path / "few.json").write_text(json.dumps(json.loads(standins.data.read_text())[:20]))
    few = f"data.path={str(tmp_path / 'few.json')!r}"
    with pytest.raises(CheckpointError, match="samples 32 → 20"):
        run("run", few, "schedule.max_steps=6", resume=True, force=True)


def test_a_checkpoint_from_before_lengths_were_recorded_resumes(run):
    folder = run("run", "data.sampler='length'")
    progress = folder / "iter_4.state" / "progress.json"
    values = json.loads(progress.read_text())
    del values["plan"]["data"], values["plan"]["lengths"]
    progress.write_text(json.dumps(values))
    run("run", "data.sampler='length'", "schedule.max_steps=5", resume=True)
    assert (folder / "iter_5.pth").is_file()


def test_another_optimizer_is_refused(run):
    run("run")
    told = r"trained with torch\.optim\.AdamW, and schedule\.optimizer is torch\.optim\.SGD now\.\n.*init_from"
    with pytest.raises(CheckpointError, match=told):
        run("run", "schedule.max_steps=5", "schedule.optimizer='torch.optim.SGD'", resume=True)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{", ""])
def test_a_damaged_state_is_told(run, content):
    folder = run("run")
    (folder / "iter_4.state" / "progress.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"missing or damaged: .*progress.json: .*\n.*--resume-from.*init_from"):
        run("run", "schedule.max_steps=5", resume=True)


def test_a_checkpoint_of_something_else_names_the_way_to_start_from_weights(run, tmp_path):
    other = run("other", "llm.template='vicuna'", "data.pad_to_square=True", recipe=PRETRAIN) / "iter_4.pth"
    with pytest.raises(CheckpointError, match=r"this recipe trains other weights: \d+ tensors differ.*\n.*init_from"):
        run("run", resume_from=other)
    torch.save({"model.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of vlmtool.*\n.*iter_N.pth .*init_from"):
        run("run", resume_from=tmp_path / "foreign.pth")


def test_an_infinite_number_in_a_state_is_no_damage(run):
    """A schedule of mmengine's own may keep one."""
    folder = run("run", "schedule.save_every=2", "schedule.max_steps=2")
    progress = folder / "iter_2.state" / "progress.json"
    values = json.loads(progress.read_text())
    values["schedules"][0]["best"] = float("inf")
    progress.write_text(json.dumps(values))
    run("run", "schedule.max_steps=3", resume=True)
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]  # it went on, and repeated nothing
