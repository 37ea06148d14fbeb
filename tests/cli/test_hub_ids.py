"""Hub ids in place of paths, found in a local cache: Hugging Face's, and that of a stand-in of ModelScope's package."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chat.folders import Folders, write_folders
from tests.foreign_models import Reference, make_hf_llava
from tests.standins import make_clip, make_llama
from vlmtool.chat.load import load_chat_model
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.engine.init_from import find_source
from vlmtool.engine.train import train
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.utils.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODELSCOPE = """
from pathlib import Path
def snapshot_download(model_id):
    folder = Path({root!r}) / model_id
    if not folder.is_dir():
        raise ValueError(f"no model {{model_id}}")
    return str(folder)
"""
Publish = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def folders(standins, tmp_path_factory) -> Folders:
    root = tmp_path_factory.mktemp("hub_models")
    llm = make_llama(root / "llm", 1)
    (llm / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return write_folders(root, llm, make_clip(root / "clip", 3))


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Reference:
    return make_hf_llava(tmp_path_factory.mktemp("hub_llava") / "llava")


def cached(cache: Path, folder: Path, name: str) -> str:
    """A snapshot as huggingface_hub keeps it: files by their blobs, a branch by its commit."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT, dirs_exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    return name


@pytest.fixture(params=["huggingface", "modelscope"])
def publish(request, tmp_path, monkeypatch) -> Publish:
    """`publish(folder, "owner/name")` puts a model into the local cache of a hub, and gives its id."""
    monkeypatch.chdir(tmp_path)
    if request.param == "huggingface":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return lambda folder, name: cached(tmp_path / "hub", folder, name)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "modelscope.py").write_text(MODELSCOPE.format(root=str(tmp_path / "scope")))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "modelscope", raising=False)
    monkeypatch.setenv("VLMTOOL_HUB", "modelscope")

    def put(folder: Path, name: str) -> str:
        shutil.copytree(folder, tmp_path / "scope" / name)
        return name

    return put


def test_chat_takes_ids_wherever_it_takes_paths(folders, llava, publish):
    def load(model: str, **flags: str):
        return load_chat_model(model, device="cpu", **flags).identity

    llm, clip = publish(folders.llm, "acme/llm"), publish(folders.vision, "acme/clip")
    model, adapter = publish(folders.model, "acme/vlm"), publish(folders.model / "llm_adapter", "acme/adapter")
    whole = load(str(folders.model))
    assert load(model) == load(llm, llava=model) == load(llm, llava=model, visual_encoder=clip) == whole
    assert load(llm, adapter=adapter) == load(str(folders.llm), adapter=str(folders.model / "llm_adapter"))
    assert load(publish(llava.folder, "acme/llava")) == load(str(llava.folder))


def test_convert_merge_takes_ids(folders, publish, tmp_path, capsys):
    llm, adapter = publish(folders.llm, "acme/llm"), publish(folders.model / "llm_adapter", "acme/adapter")
    assert invoke(app, ["convert", "merge", llm, adapter, str(tmp_path / "one")], debug=False) == 0
    model = publish(folders.model, "acme/vlm")
    assert invoke(app, ["convert", "merge", model, str(tmp_path / "all")], debug=False) == 0
    assert (tmp_path / "one" / "model.safetensors").is_file() and (tmp_path / "all" / "llm").is_dir()
    assert invoke(app, ["convert", "merge", "acme/none", str(tmp_path / "no")], debug=False) == 2
    assert "FOLDER: 'acme/none' is neither a folder here nor a model" in capsys.readouterr().err


def test_a_training_takes_ids_of_its_parts_and_of_what_it_starts_from(standins, llava, publish, tmp_path):
    values = {
        "llm.path": publish(standins.llama, "acme/llama"), "vision_encoder.path": publish(standins.clip, "acme/clip"),
        "data.path": str(standins.data), "data.image_folder": str(standins.images), "data.num_workers": 0,
        "schedule.batch_size": 4, "schedule.max_steps": 1, "init_from": publish(llava.folder, "acme/llava"),
    }  # fmt: skip
    overrides = [f"{key}={value!r}" for key, value in values.items()]
    checkpoint = train("llava_vicuna_7b_v15_pretrain", overrides, tmp_path / "run")
    meta = read_checkpoint(checkpoint).meta
    assert meta["parts"]["llm"]["path"] == "acme/llama"
    assert [parent["kind"] for parent in meta["parents"]] == ["LLaVA model of transformers"]


def test_a_run_that_is_not_there_is_no_hub_id(publish, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("work_dirs/pretrain", "runs/pretrain"):
        with pytest.raises(UsageError, match=f"there is no '{name}'"):
            find_source(name)
    with pytest.raises(UsageError, match="init_from: 'acme/none' is neither"):
        find_source("acme/none")


def test_the_real_command_finds_an_id_in_the_cache(llava, tmp_path, standins):
    cached(tmp_path / "hf" / "hub", llava.folder, "acme/llava")
    picture = next(standins.images.iterdir())
    command = [
        *(sys.executable, "-m", "vlmtool", "chat", "acme/llava", "--image", str(picture)),
        *("--question", "What?", "--temperature", "0", "--max-new-tokens", "4", "--device", "cpu"),
    ]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
    assert re.search(r"acme--llava.*: LLaVA model of transformers; prompts by the chat template", done.stderr)
