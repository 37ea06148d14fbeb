"""Folders that are given for a model and are something else."""

import json
from pathlib import Path

import pytest

from vlmtool.utils.folder_kind import other_than_model


def made(folder: Path, **files: object) -> Path:
    """`made(folder, config_json={…})`: a folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_json", ".json")).write_text(json.dumps(content))
    return folder


def test_a_run_folder_gets_the_command_that_converts_it(tmp_path):
    run = made(tmp_path / "run")
    for name in ("iter_3.pth", "iter_20.pth", "last_checkpoint"):
        (run / name).touch()
    what, remedy = other_than_model(run)
    assert what == "a run folder"
    assert remedy.endswith(f"vlmtool convert pth_to_hf {run}/recipe.py {run}/iter_20.pth SAVE_PATH")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"adapter_config_json": {"r": 8}}, "an adapter"),
        ({"config_json": {"type": "a.B", "vision_hidden_size": 4, "llm_hidden_size": 4}}, "a projector"),
        ({"config_json": {"model_type": "projector", "visual_hidden_size": 4, "llm_hidden_size": 4}}, "a projector"),
    ],
)
def test_a_part_names_the_model_folder_around_it(tmp_path, files, what, whole):
    made(tmp_path, **({"vlmtool_json": {}} if whole else {}))
    found = other_than_model(made(tmp_path / "part", **files))
    assert found.what == what and (str(tmp_path) in found.remedy) is whole


def test_an_image_encoder_and_what_may_be_a_model(tmp_path, standins):
    for encoder in (standins.clip, standins.siglip):
        assert other_than_model(encoder).what.startswith("an image encoder ('")
    assert other_than_model(standins.llama) is None
    assert other_than_model(made(tmp_path / "empty")) is None
    assert other_than_model(made(tmp_path / "odd", config_json=["llama"])) is None
