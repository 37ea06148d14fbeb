"""Weight files that are missing, cut or changed: told, whatever a single bit of them says."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vlmtool.models.damage import check_weight_files, damage_of, missing_shards
from vlmtool.utils.errors import CheckpointError

SHARDS = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}


def saved(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, buffer, **options)
    return buffer.getvalue()


def index(folder: Path, kind: str, weight_map: object) -> None:
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A part of two .bin files."""
    index(tmp_path, "pytorch_model.bin", SHARDS)
    for name in SHARDS.values():
        (tmp_path / name).write_bytes(saved())
    return tmp_path


def test_a_whole_part_is_whole(part):
    assert missing_shards(part) == {}
    check_weight_files(part)


def test_a_missing_bin_is_named_with_its_index(part):
    (part / SHARDS["b"]).unlink()
    assert missing_shards(part) == {SHARDS["b"]: "pytorch_model.bin.index.json"}
    with pytest.raises(CheckpointError, match=f"weight file '{SHARDS['b']}' is missing"):
        check_weight_files(part)


def test_bins_that_nobody_reads_may_be_missing(part):
    for name in SHARDS.values():
        (part / name).unlink()
    save_file({"a": np.zeros(3)}, part / "model.safetensors")
    assert missing_shards(part) == {}
    check_weight_files(part)
    (part / "model.safetensors").rename(part / "model-1.safetensors")
    index(part, "model.safetensors", {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    assert missing_shards(part) == {"model-2.safetensors": "model.safetensors.index.json"}


@pytest.mark.parametrize("weight_map", [None, [], "x"])
def test_an_index_without_names_is_an_error(part, weight_map):
    index(part, "pytorch_model.bin", weight_map)
    with pytest.raises(CheckpointError, match="names no weight files"):
        missing_shards(part)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", 5])
def test_odd_names_of_shards_are_missing_ones(part, name):
    index(part, "pytorch_model.bin", {"a": name})
    assert list(missing_shards(part)) == [str(name)]


def test_a_bit_of_any_byte_may_flip(tmp_path):
    """An answer to each; and the right one where the bit is of a record, which has a checksum."""
    file, content = tmp_path / "pytorch_model.bin", saved()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = next(content.index(archive.read(e)) for e in archive.infolist() if e.filename.endswith("data/0"))
    found = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        reason = damage_of(file, verify=True)
        found.append(reason is not None)
        if data <= place < data + 16:
            assert reason is not None and "checksum" in reason
    assert sum(found) > 0.3 * len(found)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "iter_1.pth"])
def test_what_is_cut_or_no_archive_is_found_unasked(tmp_path, name):
    file = tmp_path / name
    for content in (b"", b"not an archive", saved()[:-30], saved()[: len(saved()) // 2]):
        file.write_bytes(content)
        assert damage_of(file) == "it is cut, or no file of torch.save"


def test_files_as_torch_wrote_them_before_1_6_are_fine(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(saved(_use_new_zipfile_serialization=False))
    assert damage_of(tmp_path / "pytorch_model.bin", verify=True) is None


def test_other_bins_are_not_ours_to_judge(tmp_path):
    (tmp_path / "vocab.bin").write_bytes(b"words")
    assert damage_of(tmp_path / "vocab.bin", verify=True) is None


def test_compressed_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", "x" * 100)
    assert "compressed" in damage_of(tmp_path / "a.pth")
