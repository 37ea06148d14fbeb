"""What makes a part that part, and hashes that are computed once."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from vlmtool.models import fingerprint
from vlmtool.models.fingerprint import Identity, config_hash, file_hashes, identity_of, part_hash, remember, remembered


@pytest.fixture
def part(tmp_path: Path) -> Path:
    folder = tmp_path / "part"
    folder.mkdir()
    (folder / "model-1.safetensors").write_bytes(b"one")
    (folder / "model-2.safetensors").write_bytes(b"two")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 1e4, "dtype": "float16"}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_the_hash_of_weights_is_what_manifests_hold_since_the_first_version(part):
    lines = "".join(
        f"{name}:{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("model-1.safetensors", b"one"), ("model-2.safetensors", b"two"))
    )
    assert part_hash(part) == hashlib.sha256(lines.encode()).hexdigest()


def test_config_counts_by_what_it_says(part):
    before = identity_of(part)
    config = json.loads((part / "config.json").read_text())
    said = {"transformers_version": "9", "torch_dtype": "bfloat16", "_name_or_path": "x", **config, "dtype": "float32"}
    (part / "config.json").write_text(json.dumps(dict(reversed(said.items())), indent=4))
    assert identity_of(part) == before
    (part / "config.json").write_text(json.dumps(said | {"vision_config": {"dtype": "float32"}}))
    nested = config_hash(part)
    (part / "config.json").write_text(json.dumps(said | {"vision_config": {}}))
    assert config_hash(part) == nested
    (part / "config.json").write_text(json.dumps(said | {"rope_theta": 1e6}))
    kind, then, now = before.difference(identity_of(part))
    assert kind == "config.json" and then == before.config[:12] and now == config_hash(part)[:12]
    (part / "tokenizer.json").write_text("other")
    assert identity_of(part).weights == before.weights


def test_what_was_not_recorded_is_not_compared(part):
    found = identity_of(part)
    assert Identity(found.weights).difference(found) is None
    assert Identity("", "").difference(found) is None
    assert Identity("0" * 64, found.config).difference(found) == ("weights", "0" * 12, found.weights[:12])
    (part / "config.json").unlink()
    assert identity_of(part).config == ""


def test_a_file_is_read_once_until_it_changes(part, monkeypatch):
    file = part / "model-1.safetensors"
    first = file_hashes([file])
    assert remembered([file]) == first
    monkeypatch.setattr(fingerprint, "sha256", lambda path: pytest.fail("read again"))
    assert file_hashes([file]) == first
    monkeypatch.undo()
    file.write_bytes(b"eno")
    os.utime(file, ns=(1, 1))
    assert remembered([file]) == {} and file_hashes([file]) != first


@pytest.mark.parametrize("anew", [False, True])
def test_a_file_that_is_written_to_meanwhile_is_not_remembered(part, monkeypatch, anew):
    file, other = part / "model-1.safetensors", part / "model-2.safetensors"
    real = fingerprint.sha256

    def written_to(path: Path) -> str:
        value = real(path)
        if path == file:
            file.write_bytes(b"written while it was read")
        return value

    monkeypatch.setattr(fingerprint, "sha256", written_to)
    file_hashes([file, other], anew)
    monkeypatch.undo()
    assert list(remembered([file, other])) == [other]
    assert file_hashes([file]) == {file: hashlib.sha256(b"written while it was read").hexdigest()}


def test_anew_reads_though_it_is_remembered(part):
    file = part / "model-1.safetensors"
    remember({file: "wrong"})
    assert file_hashes([file]) == {file: "wrong"}
    right = {file: hashlib.sha256(b"one").hexdigest()}
    assert file_hashes([file], anew=True) == right == remembered([file])


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900])
def test_a_config_that_cannot_be_read_has_no_hash(part, content):
    (part / "config.json").write_text(content)
    assert config_hash(part) == "" or content.endswith("}")  # nested, but not too deep for every Python


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', "[" * 100_000])
def test_a_damaged_memory_is_no_error(part, monkeypatch, tmp_path, content):
    monkeypatch.setenv("VLMTOOL_CACHE", str(tmp_path))
    (tmp_path / "hashes.json").write_text(content)
    assert part_hash(part) == part_hash(part)
