"""Files of torch.save, ours and others': none runs code, none takes more memory than its size."""

import os
import pickle
import resource
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch

from tests.safety.evil import Calls, Runs, as_checkpoint, compressed, repeated_tensor, stack_global, with_pickle
from vlmtool.chat.adapter import add_adapter
from vlmtool.models.build import load_encoder_weights
from vlmtool.models.checkpoint import encode_checkpoint, last_checkpoint, read_checkpoint, safe_load
from vlmtool.models.folder import load_projector
from vlmtool.models.llm import load_llm
from vlmtool.models.pickled import pickled_names
from vlmtool.utils.errors import CheckpointError


@pytest.mark.parametrize("read", [safe_load, read_checkpoint])
def test_code_is_refused_by_its_name(tmp_path, read):
    path = as_checkpoint(tmp_path / "a.pth", Runs(tmp_path / "mark"))
    with pytest.raises(CheckpointError, match=r"a.pth: refused.*it asks for 'posix.system'") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(Runs("x"), 0), "posix.system"),
        (pickle.dumps(Runs("x"), 5), "posix.system"),
        (stack_global("builtins", "eval"), "builtins.eval"),
        (b"(S'x'\nios\nsystem\n.", "os.system"),  # INST
        (b"\x80\x02\x82\x01.", "copyreg extension 1"),
        (pickle.dumps(Calls(getattr, "x", "encode"), 2), "builtins.getattr"),
        (pickle.dumps(Calls(torch.load, "x"), 2), "torch.serialization.load"),
    ],
)
def test_every_way_of_asking_is_named(tmp_path, content, name):
    with pytest.raises(CheckpointError, match=f"asks for '{name}'"):
        safe_load(with_pickle(tmp_path / "a.pth", content))


def test_what_tensors_need_is_not_refused(tmp_path):
    types = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool, torch.complex64]
    state = {str(dtype): torch.zeros(3).to(dtype) for dtype in types}
    content = OrderedDict(
        state, p=torch.nn.Parameter(torch.ones(2)), s=torch.Size([1]), d=torch.float32, e=torch.empty(0)
    )
    torch.save(content, tmp_path / "a.pth")
    found = safe_load(tmp_path / "a.pth")
    assert all(
        torch.equal(found[name].float(), value.float()) for name, value in state.items() if "complex" not in name
    )
    assert found["d"] is torch.float32 and found["s"] == torch.Size([1])
    assert list(pickled_names(pickle.dumps({1: "a"}))) == []


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (Calls(bytearray, 10**12), "asks for 'builtins.bytearray'"),
        (Calls(torch.FloatTensor, 10**6, 10**6), "asks for 'torch.FloatTensor'"),
        (repeated_tensor(), "would take 4,000,000,000,000 bytes, of which it holds 4"),
        (torch.empty(10**6, 10**6, device="meta"), "asks for 'torch._utils._rebuild_meta_tensor_no_storage'"),
        (torch.eye(2).to_sparse(), "asks for 'torch._utils._rebuild_sparse_tensor'"),
    ],
)
def test_a_small_file_takes_little_memory(tmp_path, extra, reason):
    path = as_checkpoint(tmp_path / "a.pth", extra)
    assert path.stat().st_size < 5_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_compressed_entries_are_refused(tmp_path):
    path = compressed(as_checkpoint(tmp_path / "a.pth", torch.zeros(5_000_000)))
    assert path.stat().st_size < 50_000
    with pytest.raises(CheckpointError, match="compressed entries"):
        safe_load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no zip", b"\x80\x02.", b"\x80\x02a.", b"\x80\x02h\x07.", b"\x80\x02(K\x01K\x02s.", b"\x80\x02K\x01R.",
        b"\x80\x02}K\x01b.", b"\x80\x02U\x07storageQ.", b"\x80\x02\x8a\x09" + b"\xff" * 9 + b"Q.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", b"\x80\x02ctorch.storage\nUntypedStorage\nU\x01a\x85R.",
    ],
)  # fmt: skip
def test_a_file_made_by_hand_is_an_error_of_three_lines(tmp_path, content):
    for path in (with_pickle(tmp_path / "a.pth", content), tmp_path / "b.pth"):
        if path.name == "b.pth":
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=path.name) as caught:
            safe_load(path)
        assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("content", [{"meta": [], "state_dict": {}}, {"meta": {}, "state_dict": {"a": 1}}, [1], "x"])
def test_another_form_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of vlmtool"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["../iter_1.pth", "/etc/passwd", "..", "", "a/b.pth"])
def test_a_run_folder_names_no_file_outside_it(tmp_path, name):
    run = tmp_path / "run"
    encode_checkpoint(tmp_path / "iter_1.pth", {}, {})
    run.mkdir()
    (run / "last_checkpoint").write_text(name + "\n")
    with pytest.raises(CheckpointError, match="not the name of a file beside it"):
        last_checkpoint(run)


def test_weights_of_others_are_read_as_safely(tmp_path, standins):
    """pytorch_model.bin of an LLM, an encoder and a projector, adapter_model.bin of peft."""
    mark = tmp_path / "mark"
    llm, encoder, projector, adapter = (tmp_path / name for name in ("llm", "encoder", "projector", "adapter"))
    llm.mkdir()
    (llm / "config.json").write_text((standins.llama / "config.json").read_text())
    as_checkpoint(llm / "pytorch_model.bin", Runs(mark))
    with pytest.raises(CheckpointError, match="pytorch_model.bin: .*posix.system"):
        load_llm(llm, torch.float32)
    torch.save(Runs(mark), llm / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_llm(llm, torch.float32)
    encoder.mkdir()
    (encoder / "config.json").write_text((standins.clip / "config.json").read_text())
    as_checkpoint(encoder / "pytorch_model.bin", Calls(bytearray, 10**12))
    with pytest.raises(CheckpointError, match="pytorch_model.bin: .*bytearray"):
        load_encoder_weights(encoder, torch.float32)
    projector.mkdir()
    config = '{"visual_hidden_size": 64, "llm_hidden_size": 64, "depth": 2, "hidden_act": "gelu", "bias": true}'
    (projector / "config.json").write_text(config)
    as_checkpoint(projector / "pytorch_model.bin", Runs(mark))
    with pytest.raises(CheckpointError, match="posix.system"):
        load_projector(projector)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    as_checkpoint(adapter / "adapter_model.bin", Runs(mark))
    with pytest.raises(CheckpointError):
        add_adapter(load_llm(standins.llama, torch.float32), adapter)
    assert not mark.exists()


def test_the_command_refuses_it_too(tmp_path):
    path = as_checkpoint(tmp_path / "a.pth", Runs(tmp_path / "mark"))
    command = [
        sys.executable,
        "-m",
        "vlmtool",
        "convert",
        "pth_to_hf",
        "demo_pretrain",
        str(path),
        str(tmp_path / "hf"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 1 and "posix.system" in done.stderr and len(done.stderr.splitlines()) <= 3
    assert not (tmp_path / "mark").exists() and not (tmp_path / "hf").exists()
