"""Checkpoints: written whole, read without running code."""

import pickle

import pytest
import torch

from vlmtool.models.checkpoint import encode_checkpoint, last_checkpoint, mark_last, read_checkpoint
from vlmtool.utils.errors import CheckpointError, UsageError


def test_round_trip(tmp_path):
    path = tmp_path / "iter_3.pth"
    encode_checkpoint(path, {"step": 3}, {"projector.model.0.weight": torch.arange(4.0)})
    checkpoint = read_checkpoint(path)
    assert checkpoint.meta == {"format": 1, "step": 3}
    assert checkpoint.state_dict["projector.model.0.weight"].tolist() == [0, 1, 2, 3]
    assert last_checkpoint(tmp_path) is None
    mark_last(path)
    assert last_checkpoint(tmp_path) == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_3.pth", "last_checkpoint"]


class Malicious:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickled_code_is_refused_and_not_run(tmp_path, save):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    save({"meta": {"format": 1}, "state_dict": Malicious(proof)}, path)
    with pytest.raises(CheckpointError, match="evil.pth"):
        read_checkpoint(path)
    assert not proof.exists()


def test_truncated_file_is_reported(tmp_path):
    path = tmp_path / "iter_1.pth"
    encode_checkpoint(path, {}, {"a": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        read_checkpoint(tmp_path / "iter_9.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of vlmtool"):
        read_checkpoint(tmp_path / "other.pth")
