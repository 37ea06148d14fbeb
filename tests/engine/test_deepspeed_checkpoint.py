"""A real ZeRO-2 engine saves and loads through our checkpoint engine. In a process of its own."""

import ast
import os
import subprocess
import sys

import pytest
import torch

from tests.safety.evil import Runs
from vlmtool.utils.errors import CheckpointError

SCRIPT = """
import sys
from pathlib import Path
import torch, deepspeed
from tests.safety.evil import Runs
from vlmtool.engine.deepspeed_checkpoint import SafeCheckpointEngine
from vlmtool.models.pickled import pickled_names, _pickle_of
from vlmtool.utils.errors import CheckpointError

folder = Path(sys.argv[1])
deepspeed.init_distributed(dist_backend="gloo")
config = {"train_batch_size": 8, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}

def start(seed):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    engine.checkpoint_engine = SafeCheckpointEngine()
    return engine

def step(engine, seed):
    torch.manual_seed(seed)
    x, y = torch.randn(8, 64), torch.randn(8, 4)
    loss = torch.nn.functional.mse_loss(engine(x), y)
    engine.backward(loss)
    engine.step()
    return loss.item()

first = start(1)
for seed in range(3):
    step(first, seed)
first.save_checkpoint(str(folder), tag="iter_3", save_latest=False, client_state={"step": 3})
files = sorted((folder / "iter_3").iterdir())
asked = {name for file in files for name in pickled_names(_pickle_of(file)) if name.startswith("deepspeed")}

second = start(2)
_, state = second.load_checkpoint(str(folder), tag="iter_3")

def flat(value):
    if isinstance(value, dict):
        return [item for key in value for item in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [item for one in value for item in flat(one)]
    return [value]

states = [flat(engine.optimizer.optimizer.state_dict()) for engine in (first, second)]
pairs = list(zip(*states, strict=True))
same = all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs)
moments = sum(torch.is_tensor(a) and a.numel() > 1 for a, _ in pairs)
weights = all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters()))
go_on = step(first, 9) == step(second, 9) and step(first, 10) == step(second, 10)

shard = next(file for file in files if "optim" in file.name)
content = SafeCheckpointEngine().load(str(shard))
SafeCheckpointEngine().save({**content, "extra": Runs(folder / "mark")}, str(shard))
try:
    start(3).load_checkpoint(str(folder), tag="iter_3")
    refused = "loaded"
except CheckpointError as error:
    refused = str(error).splitlines()[0]
print("RESULT", [state["step"], same, moments, weights, go_on, sorted(asked), refused, (folder / "mark").exists()])
"""


@pytest.mark.slow
def test_zero2_goes_on_as_if_never_stopped_and_a_bad_shard_runs_nothing(tmp_path):
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29618", "PYTHONPATH": os.getcwd(),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    step, same, moments, weights, go_on, asked, refused, ran = ast.literal_eval(line.removeprefix("RESULT").strip())
    assert step == 3 and same and moments >= 2 and weights and go_on
    assert [name.rpartition(".")[2] for name in asked] == ["LossScaler", "ZeroStageEnum", "fragment_address"]
    assert "optim_states.pt: refused" in refused and "posix.system" in refused and not ran


@pytest.fixture
def engine():
    from vlmtool.engine.deepspeed_checkpoint import SafeCheckpointEngine

    return SafeCheckpointEngine()


def test_only_the_three_of_deepspeed_are_let_in(tmp_path, engine):
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    path, before = str(tmp_path / "a.pt"), set(torch.serialization.get_safe_globals())
    engine.save({"s": ZeroStageEnum(2), "f": fragment_address(numel=3, start=4), "l": LossScaler(2.0)}, path)
    found = engine.load(path, map_location="cpu")
    assert (found["s"], found["f"], found["l"].cur_scale) == (ZeroStageEnum(2), fragment_address(numel=3, start=4), 2.0)
    assert set(torch.serialization.get_safe_globals()) == before  # nothing stays allowed
    for extra, name in (
        (DynamicLossScaler(1, 2, 3, 1, 1, False), "DynamicLossScaler"),
        (Runs(tmp_path / "m"), "system"),
    ):
        engine.save({"extra": extra}, path)
        with pytest.raises(CheckpointError, match=f"asks for '.*{name}'"):
            engine.load(path)
    assert not (tmp_path / "m").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, engine):
    path = str(tmp_path / "a.pt")
    engine.save({"step": 1}, path)

    class Breaks:
        def __reduce__(self):
            raise RuntimeError("in the middle")

    engine.save({"large": torch.zeros(1000), "then": Breaks()}, path)
    with pytest.raises(RuntimeError, match="in the middle"):
        engine.raise_problem()
    engine.raise_problem()  # told once
    assert engine.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
