"""`vlmtool inspect` as it is typed, on what the other commands write, whole and spoiled."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.standins import make_llama
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert import disk
from vlmtool.convert.merge import merge_folder, merge_part
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.train import train
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.folder import load_projector

PRETRAIN, FINETUNE = "llava_vicuna_7b_v15_pretrain", "llava_vicuna_7b_v15_finetune"


@dataclass(frozen=True)
class Made:
    """Two stages and what the conversions make of them."""

    llm: Path
    pretrain: Path
    run: Path
    checkpoint: Path
    folder: Path
    merged: Path
    merged_llm: Path


@pytest.fixture(scope="module")
def made(standins, tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("lineage")
    llm = Path(shutil.copytree(standins.llama, root / "llm"))
    values = {
        "llm.path": str(llm), "vision_encoder.path": str(standins.clip), "data.path": str(standins.data),
        "data.image_folder": str(standins.images), "data.num_workers": 0, "schedule.batch_size": 4,
        "schedule.max_steps": 2, "schedule.save_every": 1,
    }  # fmt: skip
    small = [f"{key}={value!r}" for key, value in values.items()]
    train(PRETRAIN, small, root / "pretrain")
    lora = ["llm.lora=dict(r=8, alpha=16)", "llm.quantization='nf4'"]
    checkpoint = train(FINETUNE, [*small, *lora, f"init_from={str(root / 'pretrain')!r}"], root / "run")
    folder = pth_to_hf(None, checkpoint, root / "hf")
    merged = merge_folder(folder, root / "merged")
    merged_llm = merge_part(str(llm), str(folder / "llm_adapter"), root / "merged_llm")
    return Made(llm, root / "pretrain", root / "run", checkpoint, folder, merged, merged_llm)


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """The model folder, to be spoiled."""
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys) -> Inspect:
    """`inspect(path, "--verify")` → exit code, stdout, stderr; an error is at most three lines."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = invoke(app, ["inspect", *map(str, arguments)], debug=False)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err and len(said.err.splitlines()) <= 3, said.err
        assert bool(said.err) == bool(code), said.err
        return code, said.out, said.err

    return run


def block(printed: str, label: str) -> str:
    """What stands beside a label, the lines below it included, as one text."""
    found = re.search(rf"^{label} .*(?:\n +.*)*", printed, re.MULTILINE)
    assert found, printed
    return " ".join(found.group(0).split())


def values(inspect: Inspect, *arguments: object) -> dict:
    code, out, _ = inspect(*arguments, "--json")
    assert code == 0
    return json.loads(out)


def change(folder: Path, **keys: object) -> None:
    """Other values in a manifest; None takes a key away."""
    file = folder / "vlmtool.json"
    content = {**json.loads(file.read_text()), **keys}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


def test_a_model_folder_tells_all_of_itself(made, standins, inspect):
    code, out, _ = inspect(made.folder)
    assert code == 0 and max(len(line) for line in out.splitlines() if str(made.folder.parents[1]) not in line) <= 80
    assert "model folder" in block(out, "what") and block(out, "recipe") == f"recipe {FINETUNE}, step 2, epoch 0"
    llm = block(out, "llm")
    assert "lora r=8 alpha=16 on nf4" in llm and f"{made.llm} {part_hash(made.llm)[:12]} agrees" in llm
    assert f"{part_hash(made.folder / 'llm_adapter')[:12]} agrees" in llm
    assert "frozen" in block(out, "vision_encoder") and f"{part_hash(standins.clip)[:12]} agrees" in out
    assert "full MLPProjector 64 → 64, depth 2, hidden_act gelu, bias" in block(out, "projector")
    assert block(out, "pictures") == "pictures hidden state -2 (auto), padded to a square"
    assert "vicuna" in block(out, "template") and "32 samples" in block(out, "data")
    stage = "vision_encoder frozen, projector full, llm lora r=8 alpha=16 on nf4"
    assert f"{FINETUNE}, step 2 {stage}" in block(out, "parent 1")
    assert f"{PRETRAIN}, step 2 vision_encoder frozen, projector full, llm frozen" in block(out, "parent 2")
    assert "agrees" in block(out, "parent 2") and "torch 2" in block(out, "versions")
    assert "8 of 8 agree" in block(out, "files") and "here" not in block(out, "versions")


@pytest.mark.parametrize(("layout", "needed"), [("huggingface", 0), ("official", 1), ("xtuner", 2)])
def test_folders_of_other_layouts(layout, needed, made, inspect, tmp_path):
    folder = pth_to_hf(None, made.checkpoint, tmp_path / "out", layout)
    code, out, err = inspect(folder)
    assert (code, err) == (0, "")
    assert f"in the {layout} format" in block(out, "what") and "parent 1" in out and "agree" in block(out, "files")
    bases = [block(out, part) for part in ("llm", "vision_encoder")]
    assert sum("not needed" in base for base in bases) == 2 - needed
    (folder / "README.md").write_text("edited")
    next(folder.glob("**/*.safetensors")).write_bytes(b"")
    assert inspect(folder)[0] == 1


def test_a_run_folder_is_its_last_checkpoint(made, inspect):
    run, checkpoint = values(inspect, made.run), values(inspect, made.checkpoint)
    assert (run["kind"], run["detail"]) == ("run folder", "at its checkpoint iter_2.pth")
    assert run["checkpoints"] == ["iter_1.pth", "iter_2.pth"] and checkpoint["kind"] == "checkpoint"
    for key in ("sha256", "parts", "pictures", "template", "data", "parents", "versions", "step"):
        assert run[key] == checkpoint[key], key
    assert [parent["name"] for parent in run["parents"]] == [PRETRAIN]
    assert {part["name"]: part["trained"] for part in run["parts"]} == {
        "llm": "lora r=8 alpha=16 on nf4", "vision_encoder": "frozen", "projector": "full"
    }  # fmt: skip
    assert [part["base_check"]["status"] for part in run["parts"][:2]] == ["agrees", "agrees"]


def test_merged_parts_name_what_is_inside(made, inspect):
    adapter = part_hash(made.folder / "llm_adapter")[:12]
    for path in (made.merged_llm, made.merged):
        code, out, _ = inspect(path, "--verify")
        assert code == 0 and f"merged in {adapter} {made.folder / 'llm_adapter'}" in block(out, "llm")
    assert values(inspect, made.merged_llm)["kind"] == values(inspect, made.merged / "llm")["kind"] == "merged part"
    assert "not needed" in block(out, "llm")


def test_single_parts(made, standins, inspect):
    adapter = values(inspect, made.folder / "llm_adapter")
    assert adapter["kind"] == "peft adapter" and adapter["parts"][0]["trained"] == "lora r=8 alpha=16"
    assert adapter["parts"][0]["base_check"]["status"] == "agrees" and adapter["detail"].endswith(str(made.folder))
    clip = values(inspect, standins.clip)
    assert clip["kind"] == "Hugging Face part" and "CLIPVisionModel, 3 layers, width 64" in clip["parts"][0]["about"]
    assert clip["parts"][0]["held_check"]["found"] == part_hash(standins.clip)
    projector = values(inspect, made.folder / "projector")
    assert projector["kind"] == "projector" and "MLPProjector 64 → 64" in projector["parts"][0]["about"]


def test_an_adapter_that_lies_alone(made, inspect, tmp_path):
    lone = shutil.copytree(made.folder / "llm_adapter", tmp_path / "lone")
    assert values(inspect, lone)["parts"][0]["base"] == str(made.llm)


def test_a_base_that_changed_is_told_with_both_hashes(made, copy, inspect, tmp_path):
    other = make_llama(tmp_path / "other", 9)
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, llm=manifest["llm"] | {"base": str(other)})
    code, out, err = inspect(copy)
    differ = f"differs in weights: recorded {part_hash(made.llm)[:12]}, here {part_hash(other)[:12]}"
    assert code == 1 and differ in block(out, "llm") and differ in err
    assert inspect(copy / "llm_adapter")[0] == 1


def test_the_same_weights_under_another_config_are_another_part(made, copy, inspect, tmp_path):
    base = Path(shutil.copytree(made.llm, tmp_path / "base"))
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, llm=manifest["llm"] | {"base": str(base)})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "_name_or_path": "x"}))
    assert inspect(copy)[0] == 0  # who wrote it does not matter
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    code, out, _ = inspect(copy)
    assert code == 1 and "differs in config.json" in block(out, "llm")


def test_a_base_that_is_elsewhere_is_no_error(copy, inspect):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, llm=manifest["llm"] | {"base": "/no/such/base"})
    code, out, _ = inspect(copy, "--verify")
    assert code == 0 and "not found here" in block(out, "llm")


@pytest.mark.parametrize("name", ["~nobody/x", "x" * 5000, "no/such-model-of-any-hub", "a\0b"])
def test_odd_names_of_bases_are_no_error(copy, inspect, name):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, llm=manifest["llm"] | {"base": name}, data={"path": name, "sha256": "0"})
    code, out, _ = inspect(copy)
    assert code == 0 and "not found here" in block(out, "llm") and "not found here" in block(out, "data")


def test_a_base_that_cannot_be_read_is_no_error(copy, inspect, tmp_path):
    (tmp_path / "base" / "model.safetensors").mkdir(parents=True)  # opening it is an OSError, as without permission
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, llm=manifest["llm"] | {"base": str(tmp_path / "base")})
    code, out, _ = inspect(copy, "--verify")
    assert code == 0 and "not readable here" in block(out, "llm")


def test_verify_reads_every_file(copy, inspect):
    assert inspect(copy)[0] == 0  # remembered from now on
    file = copy / "projector" / "model.safetensors"
    before = file.stat()
    flip(file, -50)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert inspect(copy)[0] == 0
    code, out, err = inspect(copy, "--verify")
    assert code == 1 and "projector/model.safetensors: recorded" in err
    assert "7 of 8 agree" in block(out, "files") and "differs in model.safetensors" in block(out, "projector")


@pytest.mark.parametrize("name", ["llm_adapter/adapter_config.json", "tokenizer.json", "chat_template.jinja"])
def test_every_file_counts(copy, inspect, name):
    (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    code, _, err = inspect(copy)
    assert code == 1 and f"{name}: recorded" in err
    (copy / name).unlink()
    code, _, err = inspect(copy)
    assert code == 1 and f"{name}: recorded, but missing" in err


def test_files_of_others_are_told(copy, inspect):
    (copy / "notes.txt").write_text("mine")
    code, out, _ = inspect(copy)
    assert code == 0 and "not recorded: notes.txt" in block(out, "files")


def test_large_files_that_were_never_hashed_are_not_read(copy, inspect, monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "SMALL", 0)
    monkeypatch.setenv("VLMTOOL_CACHE", str(tmp_path / "cache"))
    code, out, _ = inspect(copy)
    assert code == 0 and "not read" in block(out, "llm") and "0 of 8 agree" in block(out, "files")
    code, out, _ = inspect(copy, "--verify")
    assert code == 0 and "not read" not in out and "8 of 8 agree" in block(out, "files")
    assert "8 of 8 agree" in inspect(copy)[1]  # what was read once is remembered


def test_damaged_checkpoints(made, inspect, tmp_path):
    path = tmp_path / "iter_1.pth"
    content = made.checkpoint.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:size])
        code, _, err = inspect(path)
        assert code == 1 and "iter_1.pth" in err, size
    path.write_bytes(content)
    flip(path, len(content) // 2)
    assert inspect(path)[0] == 0
    code, _, err = inspect(path, "--verify")
    assert code == 1 and "checksum" in err


def test_a_run_folder_whose_checkpoint_is_gone(made, inspect, tmp_path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    (run / "iter_2.pth").unlink()
    code, _, err = inspect(run)
    assert code == 1 and "iter_2.pth, which is not there" in err and "iter_1.pth" in err


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("vlmtool.json", lambda file: file.write_text(file.read_text()[:-40])),
        ("vlmtool.json", lambda file: file.write_text('{"format": 1, "llm": 3}')),
        ("vlmtool.json", lambda file: file.write_text("[]")),
        ("projector/model.safetensors", lambda file: flip(file, 12)),
        ("projector/model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-100])),
        ("projector", shutil.rmtree),
    ],
)
def test_damaged_folders(copy, inspect, name, spoil):
    spoil(copy / name)
    code, _, err = inspect(copy)
    assert code == 1 and name in err
    if name != "vlmtool.json":  # found without recorded hashes too
        change(copy, files=None)
        assert inspect(copy)[0] == 1


def test_a_damaged_plain_part(standins, inspect, tmp_path):
    part = Path(shutil.copytree(standins.clip, tmp_path / "clip"))
    flip(part / "model.safetensors", 12)
    assert inspect(part)[0] == 1
    (part / "model.safetensors").unlink()
    assert "no weights" in inspect(part)[2]
    (part / "config.json").write_text("{")
    assert "config.json: cannot be read" in inspect(part)[2]


def test_a_shard_that_is_missing(standins, inspect, tmp_path):
    part = Path(shutil.copytree(standins.clip, tmp_path / "clip"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    code, _, err = inspect(part)
    assert code == 1 and "model-00002-of-00002.safetensors: named in model.safetensors.index.json, but missing" in err


def test_a_part_of_bins(inspect, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text('{"model_type": "llama"}')
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (part / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        torch.save({"a": torch.zeros(1000)}, part / name)
    assert inspect(part, "--verify")[0] == 0
    flip(part / shards["a"], (part / shards["a"]).stat().st_size // 2)
    assert inspect(part)[0] == 0
    code, _, err = inspect(part, "--verify")
    assert code == 1 and f"{shards['a']}: damaged: its record" in err
    (part / shards["a"]).write_bytes(b"<html>Not found</html>")
    (part / shards["b"]).unlink()
    code, out, _ = inspect(part)
    told = block(out, "problems")
    assert code == 1 and f"{shards['b']}: named in pytorch_model.bin.index.json, but missing" in told
    assert f"{shards['a']}: damaged: it is cut, or no file of torch.save" in told


def test_xtuners_projector_is_what_it_is_loaded_as(made, inspect, tmp_path):
    folder = Path(shutil.copytree(made.folder / "projector", tmp_path / "projector"))
    own = values(inspect, folder)["parts"][0]["about"]
    said = {"visual_hidden_size": 64, "llm_hidden_size": 64, "depth": 2, "hidden_act": "gelu", "bias": True}
    (folder / "config.json").write_text(json.dumps({"model_type": "projector", "llm_hidden_size": 64, **said}))
    values_of_xtuner = values(inspect, folder)
    assert values_of_xtuner["kind"] == "Hugging Face part"  # it says model_type
    (folder / "config.json").write_text(json.dumps(said))
    assert values(inspect, folder)["parts"][0]["about"] == own
    assert type(load_projector(folder)).__name__ == own.partition(" ")[0] == "MLPProjector"


def test_nothing_known(inspect, tmp_path):
    code, _, err = inspect(tmp_path / "no")
    assert code == 2 and "there is no file or folder" in err
    (tmp_path / "x.txt").write_text("x")
    for path in (tmp_path, tmp_path / "x.txt"):
        code, _, err = inspect(path)
        assert code == 2 and "Looked for: iter_N.pth" in err


def test_earlier_manifests_are_read(copy, inspect):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    llm, encoder = ({k: v for k, v in manifest[p].items() if k != "config_sha256"} for p in ("llm", "vision_encoder"))
    template = {k: v for k, v in manifest["template"].items() if k != "sha256"}
    parents = [{k: v for k, v in parent.items() if k not in ("stage", "epoch")} for parent in manifest["parents"]]
    before = values(inspect, copy)
    change(
        copy, llm=llm, vision_encoder=encoder, template=template, parents=parents, files=None, forced=None,
        projector_config=None,
    )  # fmt: skip
    code, out, _ = inspect(copy)
    assert code == 0 and "no hashes recorded" in block(out, "files")
    after = values(inspect, copy)
    assert after["template"] == before["template"] and after["parts"][0]["base_check"]["status"] == "agrees"
    assert after["parts"][2]["about"] == before["parts"][2]["about"]


def test_text_of_files_steers_nothing(copy, inspect):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    evil = "\x1b[2J[red]x[/red]\x07 :smile:"
    change(copy, template=manifest["template"] | {"name": evil}, forced=[evil])
    _, out, _ = inspect(copy)
    assert "[red]x[/red] :smile:" in block(out, "template") and "\x1b" not in out and "\x07" not in out
    assert "\x1b" not in inspect(copy, "--json")[1]


def test_other_versions_and_what_was_forced_are_shown(copy, inspect):
    change(copy, versions={"torch": "1.0", "no-such-package": "2"}, forced=["the llm was another one."])
    _, out, _ = inspect(copy)
    assert re.search(r"torch 1\.0 \(here 2\S+\), no-such-package 2 \(here not installed\)", block(out, "versions"))
    assert block(out, "forced") == "forced the llm was another one."


def test_a_parent_that_was_written_over_is_told(copy, inspect, tmp_path):
    parent = tmp_path / "iter_9.pth"
    parent.write_bytes(b"another")
    manifest = json.loads((copy / "vlmtool.json").read_text())
    change(copy, parents=[manifest["parents"][0] | {"checkpoint": str(parent)}])
    code, out, _ = inspect(copy)
    assert code == 0 and "differs in contents: recorded" in block(out, "parent 1")  # the folder is as it was


def test_a_folder_is_told_without_torch(made):
    program = (
        "import sys\nfrom vlmtool.cli.inspect import inspect\nfrom pathlib import Path\n"
        f"inspect(Path({str(made.folder)!r}))\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "False\n")
