"""`vlmtool.json` of any content: read or refused, and never a way out of its folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.profiles import fuzz, outcome, run_command
from tests.fuzz.strategies import damaged, json_values, paths, spoiled, to_bytes
from vlmtool.models.manifest import FILE_NAME, Manifest, PartManifest, read_manifest, read_part_manifest
from vlmtool.utils.errors import CheckpointError

HASH = "0123456789abcdef" * 4
ADAPTER = {"sha256": HASH, "source": "run/llm_adapter"}
PART = {
    "base": "org/llm",
    "sha256": HASH,
    "config_sha256": HASH,
    "adapter": "llm_adapter",
    "weights": None,
    "merged": [ADAPTER],
}
WHOLE = {
    "format": 1,
    "llm": PART,
    "vision_encoder": PART | {"adapter": None, "weights": "vision_encoder", "select_layer": -2,
    "select_strategy": "auto"},
    "projector": "projector",
    "projector_config": {"type": "MLP", "vision_hidden_size": 64, "llm_hidden_size": 64, "options": {"depth": 2}},
    "template": {"name": "vicuna", "sha256": HASH, "stop_words": ["</s>"]},
    "pad_to_square": False,
    "recipe": {"llm": {"path": "org/llm", "lora": {"r": 8, "alpha": 16}}, "vision_encoder": {},
    "projector": {"freeze": True}},
    "parents": [{"checkpoint": "iter_2.pth", "sha256": HASH, "name": "run", "step": 2, "epoch": 1,
    "stage": {"llm": "full"}}],
    "data": {"path": "data.json", "sha256": HASH, "num_samples": 32},
    "versions": {"torch": "2.0", "vlmtool": "0.1"},
    "files": {"projector/model.safetensors": HASH, "projector/config.json": HASH},
    "forced": ["on another llm"],
}  # fmt: skip
MERGED = {
    "format": 1, "part": "llm", "base": "org/llm", "sha256": HASH, "config_sha256": HASH, "merged": [ADAPTER],
    "files": {"model.safetensors": HASH}, "forced": [],
}  # fmt: skip


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def manifests(draw: DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(to_bytes(draw(spoiled(st.sampled_from([WHOLE, WHOLE, MERGED]), others=json_values | paths))))
    places = draw(st.dictionaries(st.sampled_from(["adapter", "weights", "base"]), paths, max_size=2))
    return draw(to_bytes(WHOLE | {"llm": PART | places, "projector": draw(paths | st.just("projector"))}))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """A model folder without weights; what lies beside it is not its own."""
    for place in ("model/projector", "model/llm_adapter", "model/vision_encoder", "beside"):
        (folder / place).mkdir(parents=True)
        (folder / place / "config.json").write_text("{}")
    return folder / "model"


def sub_folders(manifest: Manifest) -> list[str]:
    named = [manifest.projector]
    for part in (manifest.llm, manifest.vision_encoder):
        named += [name for name in (part.adapter, part.weights) if name is not None]
    return named


@example(data=to_json(WHOLE | {"projector": "a/../../beside"}))
@example(data=to_json(WHOLE | {"llm": PART | {"weights": "/etc"}}))
@example(data=b"[" * 100_000)
@fuzz(50, data=damaged(manifests()) | damaged(st.binary(max_size=40)))
def test_a_manifest_is_read_or_refused(model, data):
    (model / FILE_NAME).write_bytes(data)
    whole, part = outcome(lambda: read_manifest(model)), outcome(lambda: read_part_manifest(model))
    for found in (whole, part):
        assert found is None or isinstance(found, Manifest | PartManifest | CheckpointError)
    assert whole is not None or part is not None, "a manifest that is neither is passed over"
    if isinstance(whole, Manifest):
        content = json.loads(data)
        assert whole.projector == content.get("projector", "projector")
        for name in sub_folders(whole):
            place = (model / name).resolve()
            assert place != model and place.is_relative_to(model)


@fuzz(10, data=damaged(manifests()), options=st.sampled_from([(), ("--json",), ("--verify",)]))
def test_the_command_tells_what_is_wrong(model, data, options):
    (model / FILE_NAME).write_bytes(data)
    code, _, said = run_command("inspect", str(model), *options)
    assert bool(code) == ("Error: " in said)
