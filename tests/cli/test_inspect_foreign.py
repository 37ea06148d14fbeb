"""`vlmtool inspect` on what other tools wrote: the kind, and the parts that are found."""

import json
from pathlib import Path

import pytest
import torch

from tests.foreign_models import (
    LLAVA_NAMES,
    make_blip2,
    make_hf_llava,
    make_llava_layout,
    renamed,
    write_tower,
)
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.models.folder import save_projector
from vlmtool.models.imports.kind import Kind, foreign_kind

ONE = "projector 1 weight (MLPProjector 64 → 64, depth 1)"
MLP = "projector 4 weights (MLPProjector 64 → 64, depth 2, bias)"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    hf = make_hf_llava(root / "hf")
    state = renamed(hf.state(), LLAVA_NAMES)
    projector = {name: value for name, value in state.items() if "mm_projector" in name}
    torch.save(projector, root / "mm_projector.bin")
    (root / "pretrain").mkdir()
    torch.save(projector, root / "pretrain" / "mm_projector.bin")
    (root / "pretrain" / "config.json").write_text(json.dumps({"mm_vision_tower": "x", "model_type": "llava_llama"}))
    make_blip2(root / "blip2")
    torch.save({"model": {"Qformer.bert.encoder.layer.0.x": torch.ones(1), "odd": torch.ones(1)}}, root / "lavis.pth")
    xtuner = {"projector.model.0.weight": torch.ones(64, 64), "llm.x": torch.ones(1)}
    torch.save({"meta": {"epoch": 1}, "state_dict": xtuner}, root / "epoch_1.pth")
    config = {"visual_hidden_size": 64, "llm_hidden_size": 64, "depth": 1, "hidden_act": "gelu", "bias": False}
    save_projector(root / "xtuner" / "projector", config, {"model.0.weight": torch.ones(64, 64)})
    make_llava_layout(root / "llava", hf, write_tower(root / "tower", hf))
    return {name.name: name for name in root.iterdir()}


KINDS = {
    "hf": (Kind.HF_LLAVA, f"vision_encoder 55 weights, {MLP}, llm 21 weights"),
    "llava": (Kind.LLAVA, f"{MLP}, llm 21 weights, others 1 weight"),
    "mm_projector.bin": (Kind.LLAVA_PROJECTOR, MLP),
    "pretrain": (Kind.LLAVA_PROJECTOR, MLP),
    "blip2": (Kind.BLIP2, None),
    "lavis.pth": (Kind.LAVIS, None),
    "epoch_1.pth": (Kind.XTUNER_CHECKPOINT, f"{ONE}, llm 1 weight"),
    "xtuner": (Kind.XTUNER_FOLDER, ONE),
    "tower": (None, None),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_told_in_a_line(made, name, capsys):
    kind, parts = KINDS[name]
    assert foreign_kind(made[name]) is kind
    code = invoke(app, ["inspect", str(made[name]), "--json"], debug=False)
    said = capsys.readouterr()
    assert code == 0, said.err
    report = json.loads(said.out)
    assert report["kind"] == (str(kind) if kind else "Hugging Face part")
    assert parts is None or report["detail"] == parts
    assert invoke(app, ["inspect", str(made[name])], debug=False) == 0
    assert report["kind"] in " ".join(capsys.readouterr().out.split())


def test_a_cut_file_of_another_tool_is_told(made, tmp_path, capsys):
    content = made["mm_projector.bin"].read_bytes()
    (tmp_path / "mm_projector.bin").write_bytes(content[: len(content) // 2])
    assert invoke(app, ["inspect", str(tmp_path / "mm_projector.bin")], debug=False) == 1
    assert "damaged" in capsys.readouterr().err
    code = invoke(app, ["inspect", str(tmp_path)], debug=False)
    assert code == 1 and "mm_projector.bin" in capsys.readouterr().err
