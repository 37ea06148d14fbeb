"""A real checkpoint of mmengine's Runner, as XTuner writes them, and what may not stand in one."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.safety.evil import Calls, Runs, with_pickle
from vlmtool.engine.init_from import find_source
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.foreign import MMENGINE
from vlmtool.models.imports.fit import block_number
from vlmtool.models.imports.read import find_foreign, read_pickle
from vlmtool.models.pickled import pickled_names
from vlmtool.utils.errors import CheckpointError, UsageError

# In a process of its own: a Runner sets the log, the seeds and the visitor of the message hub for all that follows.
SCRIPT = """
import sys, torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Pairs(torch.utils.data.Dataset):
    metainfo = {"classes": ("a", "b")}
    def __len__(self): return 8
    def __getitem__(self, index): return torch.randn(4), torch.randn(1)

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.projector = torch.nn.Linear(4, 1)
    def forward(self, *args, **kwargs): raise NotImplementedError
    def train_step(self, data, optim_wrapper):
        x, y = (torch.stack(list(part)) for part in data)
        loss = (self.projector(x) - y).pow(2).mean()
        optim_wrapper.update_params(loss)
        return {"loss": loss}

runner = Runner(
    model=Model(), work_dir=sys.argv[1], experiment_name="xtuner_like",
    train_dataloader=dict(dataset=Pairs(), batch_size=2, sampler=dict(type="DefaultSampler", shuffle=True)),
    train_cfg=dict(by_epoch=True, max_epochs=1),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
    param_scheduler=[dict(type="CosineAnnealingLR", by_epoch=False, T_max=4)],
    default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
)
runner.train()
torch.save(runner.model.state_dict(), sys.argv[1] + "/weights.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mmengine")
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_weights_and_plain_meta_are_read(folder):
    found = dict(find_foreign(folder / "epoch_1.pth").tensors())
    wanted = torch.load(folder / "weights.pt", weights_only=True)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    meta = read_pickle(folder / "epoch_1.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 4) and meta["experiment_name"].startswith("xtuner_like")


def test_the_file_does_hold_objects_and_vlmtools_own_reader_refuses_it(folder):
    with pytest.raises(CheckpointError, match="HistoryBuffer|getattr|numpy"):
        read_checkpoint(folder / "epoch_1.pth")


def test_every_name_of_the_file_gives_the_stand_in(folder, monkeypatch):
    """`getattr` and the classes of mmengine and numpy among them: nothing that the file names is called."""
    assert [kind.__module__ for kind in set(MMENGINE.values())] == ["vlmtool.models.foreign"]
    monkeypatch.setattr("mmengine.logging.history_buffer.HistoryBuffer", lambda *_: pytest.fail("called"))
    read_pickle(folder / "epoch_1.pth")
    path = with_pickle(
        folder / "getattr.pth", pickle.dumps({"meta": {"a": Calls(getattr, "", "x")}, "state_dict": {}}, 2)
    )
    assert type(read_pickle(path)["meta"]["a"]).__module__ == "vlmtool.models.foreign"


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_old_and_new_numpy_are_read(folder, core):
    import zipfile

    with zipfile.ZipFile(folder / "epoch_1.pth") as source, zipfile.ZipFile(folder / f"{core}.pth", "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
                content = content.replace(b"c" + name + b"\n", b"c" + core.encode() + b"\n")
            if entry.filename.endswith("data.pkl"):
                assert any(name.startswith(f"{core}.") for name in pickled_names(content))
            target.writestr(entry, content)
    assert read_pickle(folder / f"{core}.pth")["meta"]["epoch"] == 1


@pytest.mark.parametrize(
    ("extra", "name"),
    [(Calls(print, "x"), "builtins.print"), (Calls(pickle.loads, b"x"), "pickle.loads"), (None, "posix.system")],
)
def test_any_other_object_is_refused_by_name(tmp_path, extra, name):
    path = tmp_path / "a.pth"
    extra = extra or Runs(tmp_path / "mark")
    torch.save({"meta": {}, "state_dict": {}, "message_hub": {"log_scalars": extra}}, path)
    with pytest.raises(CheckpointError, match=f"a.pth: refused.*'{name}'") as caught:
        read_pickle(path)
    assert len(str(caught.value).splitlines()) <= 3 and not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [[1], {"meta": {}}, {"meta": 1, "state_dict": {}}])
def test_another_form_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert find_foreign(tmp_path / "a.pth") is None


def test_a_state_of_other_than_tensors_is_refused(tmp_path):
    torch.save({"meta": {}, "state_dict": {"llm.weight": [1]}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="'llm.weight' is no tensor"):
        dict(find_foreign(tmp_path / "a.pth").tensors())


def test_a_folder_of_shards_is_told_from_an_empty_run(tmp_path):
    (tmp_path / "iter_4.pth").mkdir()
    with pytest.raises(UsageError, match="DeepSpeed's shards.*\\n.*xtuner convert pth_to_hf"):
        find_source(str(tmp_path / "iter_4.pth"))
    with pytest.raises(UsageError, match="holds no checkpoint yet"):
        find_source(str(tmp_path))


def test_blocks_of_an_encoder_are_known_by_their_number():
    dino = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=4))
    numbers = {number for name in dino.state_dict() for number in block_number(f"vision_encoder.model.{name}")}
    assert numbers == {0, 1, 2}
    assert block_number("vision_encoder.model.encoder.layers.11.mlp.fc1.weight") == [11]
    assert block_number("vision_encoder.model.embeddings.class_embedding") == []
