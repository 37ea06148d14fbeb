"""Two image encoders side by side, from the recipe over a training to the model folder, held to each alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from tests.engine.conftest import losses
from vlmtool.chat.generator import Generator
from vlmtool.chat.load import load_chat_model
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.inspect import inspect_path
from vlmtool.convert.merge import merge_folder
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.conversation import Image
from vlmtool.engine.preflight import preflight
from vlmtool.engine.train import train
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.manifest import EncoderPart, read_manifest
from vlmtool.models.parts import BESIDE
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import CheckpointError, RecipeError, UsageError

PRETRAIN = "prismatic_vicuna_7b_siglip_dinov2_pretrain"
FINETUNE = "prismatic_vicuna_7b_siglip_dinov2_finetune"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, patch_size=16, image_size=48)


def make_dinov2(folder: Path, seed: int) -> Path:
    """A DINOv2 whose own pictures are larger than the SigLIP's; both make 2 × 2 patches of 32 px."""
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(folder)
    side = {"height": 48, "width": 48}
    BitImageProcessorPil(size=side, crop_size=side, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Stages:
    """Overrides that put the stand-ins into a recipe, the last checkpoints of two stages, and a model folder."""

    small: list[str]
    dinov2: Path
    pretrain: Path
    finetune: Path
    folder: Path


@pytest.fixture(scope="module")
def stages(standins, tmp_path_factory) -> Stages:
    root = tmp_path_factory.mktemp("fused")
    dinov2 = make_dinov2(root / "dinov2", 5)
    values = {
        "llm.path": str(standins.llama), "vision_encoder.path": str(standins.siglip),
        "vision_encoder.beside.path": str(dinov2), "data.path": str(standins.data),
        "data.image_folder": str(standins.images), "data.num_workers": 0, "schedule.batch_size": 4,
        "schedule.max_steps": 2, "schedule.save_every": 1, "runtime.activation_checkpointing": False,
    }  # fmt: skip
    small = [f"{key}={value!r}" for key, value in values.items()]
    pretrain = train(PRETRAIN, small, root / "pretrain")
    lora = ["llm.freeze=None", "llm.lora=dict(r=4, alpha=8)"]
    finetune = train(FINETUNE, [*small, *lora, f"init_from={str(pretrain)!r}"], root / "finetune")
    return Stages(small, dinov2, pretrain, finetune, pth_to_hf(None, finetune, root / "hf"))


@pytest.fixture
def start(stages, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """`start("init_from=…")` is `vlmtool train` of the second stage: its exit code and error."""

    def command(*overrides: str) -> tuple[int, str]:
        settings = [*stages.small, "llm.freeze=None", "llm.lora=dict(r=4, alpha=8)", *overrides]
        words = [word for setting in settings for word in ("--set", setting)]
        code = invoke(app, ["train", FINETUNE, "--work-dir", str(tmp_path / "next"), *words], debug=False)
        err = capsys.readouterr().err
        return code, err[err.index("Error: ") :] if code else err

    return command


def picture(standins) -> PILImage.Image:
    return PILImage.open(sorted(standins.images.iterdir())[0]).convert("RGB")


@torch.no_grad()
def embeds(generator: Generator, image: PILImage.Image) -> Tensor:
    """Image embeddings (N, D) of a loaded model."""
    (found,) = generator.model.encode_images(generator.transform([Image(image)]))
    return found


@torch.no_grad()
def expected_embeds(standins, stages, image: PILImage.Image) -> Tensor:
    """The same, of Hugging Face's two models, each with its own image processor at 32 px, and the trained projector."""
    side = {"height": 32, "width": 32}
    siglip, dinov2 = (
        cls.from_pretrained(folder).eval()
        for cls, folder in ((SiglipVisionModel, standins.siglip), (Dinov2Model, stages.dinov2))
    )
    processors = [
        AutoImageProcessor.from_pretrained(folder, backend="pil") for folder in (standins.siglip, stages.dinov2)
    ]
    # The second sees what the first's processor has scaled: bicubic, in 8 bit.
    resample = processors[0].resample
    one, two = (p(image, size=side, resample=resample, do_center_crop=False, return_tensors="pt") for p in processors)
    first = siglip(one["pixel_values"], output_hidden_states=True).hidden_states[-2]
    second = dinov2(two["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    weights = read_checkpoint(stages.finetune).state_dict
    hidden = torch.cat([first, second], -1) @ weights["projector.model.0.weight"].T + weights["projector.model.0.bias"]
    out = torch.nn.functional.gelu(hidden) @ weights["projector.model.2.weight"].T + weights["projector.model.2.bias"]
    return out[0]


def test_the_model_folder_sees_with_both(standins, stages, tmp_path):
    image = picture(standins)
    generator = load_chat_model(str(stages.folder), device="cpu")
    assert generator.model.projector.vision_hidden_size == 64 + 32
    expected = expected_embeds(standins, stages, image)
    torch.testing.assert_close(embeds(generator, image), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (4, 64)
    merged = merge_folder(stages.folder, tmp_path / "merged", device="cpu")
    entry = read_manifest(merged).vision_encoder.beside
    assert entry == read_manifest(stages.folder).vision_encoder.beside is not None
    torch.testing.assert_close(
        embeds(load_chat_model(str(merged), device="cpu"), image), expected, atol=1e-5, rtol=1e-5
    )


def test_the_folder_brings_the_colours_of_both(standins, stages, tmp_path):
    """As with the first encoder, what lies beside the base's weights has no say any more."""
    image, folder = picture(standins), tmp_path / "moved"
    before = embeds(load_chat_model(str(stages.folder), device="cpu"), image)
    shutil.copytree(stages.folder, folder)
    base = shutil.copytree(stages.dinov2, tmp_path / "base")
    (base / "preprocessor_config.json").unlink()
    manifest = json.loads((folder / "vlmtool.json").read_text())
    manifest["vision_encoder"]["beside"]["base"] = "../base"  # as seen from the model folder
    (folder / "vlmtool.json").write_text(json.dumps(manifest))
    assert torch.equal(embeds(load_chat_model(str(folder), device="cpu"), image), before)


def test_its_origin_is_recorded(stages):
    origin = {"path": str(stages.dinov2), "sha256": part_hash(stages.dinov2)}
    meta = read_checkpoint(stages.finetune).meta
    assert {key: meta["parts"][BESIDE][key] for key in origin} == origin
    entry = read_manifest(stages.folder).vision_encoder.beside
    assert (entry.base, entry.sha256, entry.select_layer) == (origin["path"], origin["sha256"], -2)
    for path in (stages.finetune, stages.folder):
        report = inspect_path(path)
        assert report.problems == []
        (part,) = [part for part in report.parts if part.name == BESIDE]
        assert (part.trained, part.base, part.base_check.status) == ("frozen", origin["path"], "agrees")
    assert EncoderPart(base="a", sha256="b").beside is None  # as earlier manifests are


def test_another_one_in_its_place_is_found_out(stages, tmp_path):
    folder, other = tmp_path / "moved", make_dinov2(tmp_path / "base", 6)
    shutil.copytree(stages.folder, folder)
    manifest = json.loads((folder / "vlmtool.json").read_text())
    manifest["vision_encoder"]["beside"]["base"] = str(other)
    (folder / "vlmtool.json").write_text(json.dumps(manifest))
    hashes = [part_hash(path)[:12] for path in (stages.dinov2, other)]
    with pytest.raises(CheckpointError) as error:
        load_chat_model(str(folder), device="cpu")
    assert all(value in str(error.value) for value in hashes)
    assert any(BESIDE in problem for problem in inspect_path(folder).problems)
    identities = {load_chat_model(str(path), device="cpu", force=True).identity for path in (folder, stages.folder)}
    assert len(identities) == 2
    shutil.rmtree(other)
    with pytest.raises(UsageError, match=r"vision_encoder\.beside\.base in .*vlmtool\.json"):
        load_chat_model(str(folder), device="cpu")


def test_a_conversion_may_say_where_it_lies_now(stages, tmp_path):
    moved = shutil.copytree(stages.dinov2, tmp_path / "moved")
    settings = [*stages.small, "llm.freeze=None", "llm.lora=dict(r=4, alpha=8)"]
    recipe = load_recipe(FINETUNE, [*settings, f"vision_encoder.beside.path={str(moved)!r}"])
    assert read_manifest(pth_to_hf(recipe, stages.finetune, tmp_path / "hf")).vision_encoder.beside.base == str(moved)
    other = make_dinov2(tmp_path / "other", 6)
    for change, said in (
        (f"vision_encoder.beside.path={str(other)!r}", f"on {BESIDE} .* has weights {part_hash(other)[:12]}"),
        ("vision_encoder.beside=None", f"{BESIDE}.path = .* the recipe says None"),
        ("vision_encoder.beside.select_layer=-1", f"{BESIDE}.select_layer = -2, but the recipe says -1"),
    ):
        with pytest.raises(CheckpointError, match=said):
            pth_to_hf(load_recipe(FINETUNE, [*settings, change]), stages.finetune, tmp_path / "refused")


@pytest.mark.parametrize("source", ["pretrain", "folder"])
def test_the_next_stage_starts_from_it_and_refuses_another(stages, start, tmp_path, source):
    init_from = f"init_from={str(getattr(stages, source))!r}"
    other = make_dinov2(tmp_path / "other", 6)
    for change, said in (
        (f"vision_encoder.beside.path={str(other)!r}", (part_hash(stages.dinov2)[:12], part_hash(other)[:12])),
        ("vision_encoder.beside=None", (f"'{stages.dinov2}' beside", "no other")),
        ("vision_encoder.beside.select_layer=-1", ("beside.select_layer -2", "beside.select_layer -1")),
    ):
        code, err = start(init_from, change)
        assert code == 1 and len(err.splitlines()) == 3 and all(text in err for text in said), err
        assert not (tmp_path / "next").exists()
    assert start(init_from)[0] == 0
    meta = read_checkpoint(tmp_path / "next" / "iter_2.pth").meta
    assert len(meta["parents"]) == (1 if source == "pretrain" else 3)


def test_a_stage_of_one_encoder_does_not_become_one_of_two(stages, start, tmp_path):
    alone = train(PRETRAIN, [*stages.small, "vision_encoder.beside=None"], tmp_path / "alone")
    code, err = start(f"init_from={str(alone)!r}")
    assert code == 1 and f"no other beside its vision_encoder; this recipe has '{stages.dinov2}'" in err


def test_a_run_goes_on_where_it_was_cut(stages, tmp_path):
    folder = shutil.copytree(stages.pretrain.parent, tmp_path / "run")
    whole, expected = losses(folder), read_checkpoint(stages.pretrain).state_dict
    (folder / "iter_2.pth").unlink()
    train(PRETRAIN, stages.small, folder, resume_from=folder / "iter_1.pth")
    assert losses(folder) == pytest.approx(whole, rel=1e-6) and len(whole) == 2
    torch.testing.assert_close(read_checkpoint(folder / "iter_2.pth").state_dict, expected)
    other = make_dinov2(tmp_path / "other", 6)
    with pytest.raises(CheckpointError, match=f"another {BESIDE}"):
        train(
            PRETRAIN, [*stages.small, f"{BESIDE}.path={str(other)!r}"], folder, resume_from=folder / "iter_1.pth"
        )  # fmt: skip


def rows(stages: Stages, work_dir: Path, *overrides: str) -> dict[tuple[str, str], str]:
    """What the dry run found, by level and subject."""
    report = preflight(load_recipe(PRETRAIN, [*stages.small, *overrides]), PRETRAIN, work_dir)
    return {(row.level, row.what): row.detail for row in report.rows}


def test_the_dry_run_looks_at_both(standins, stages, tmp_path):
    found = rows(stages, tmp_path / "run")
    assert not [key for key in found if key[0] == "error"]
    sizes = []
    for cls, folder in ((SiglipVisionModel, standins.siglip), (Dinov2Model, stages.dinov2)):
        model = cls.from_pretrained(folder)
        unread = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)][0][-1]  # the last block
        sizes.append(sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in unread.parameters()))
    assert found["ok", BESIDE].startswith(f"{sizes[1] / 1e3:.0f} k of these parameters, frozen; 32 features")
    assert found["ok", "vision_encoder"].startswith(f"{sum(sizes) / 1e3:.0f} k parameters, frozen")
    assert f"vision_encoder {4 * sum(sizes) / 1e3:.0f} kB" in found["ok", "memory"]
    assert "nowhere" in rows(stages, tmp_path / "run", f"{BESIDE}.path='/nowhere'")["error", BESIDE]
    hollow = shutil.copytree(stages.dinov2, tmp_path / "hollow")
    (hollow / "model.safetensors").unlink()
    assert ("error", BESIDE) in rows(stages, tmp_path / "run", f"{BESIDE}.path={str(hollow)!r}")


def test_two_that_do_not_fit_are_refused(stages, tmp_path):
    native = tmp_path / "native"
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
    Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=16)).save_pretrained(native)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(native)
    finer = make_dinov2(tmp_path / "finer", 7)
    config = json.loads((finer / "config.json").read_text())
    (finer / "config.json").write_text(json.dumps(config | {"patch_size": 8}))
    for change, said in (
        (f"vision_encoder.path={str(native)!r}", "the first encoder makes patches of a number that differs"),
        (f"{BESIDE}.path={str(native)!r}", "the one beside it patches of a number that differs"),
        (f"{BESIDE}.path={str(finer)!r}", "4 patches, the one beside it 16 patches"),
    ):
        assert said in rows(stages, tmp_path / "run", change)["error", "vision_encoder"]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [("freeze=False", "freeze=True"), ("freeze=None vision_encoder.lora=dict(r=4,alpha=8)", "lora=None")],
)
def test_neither_is_trained(change, remedy):
    overrides = f"vision_encoder.{change}".split()
    with pytest.raises(RecipeError, match=f"one encoder alone: set `vision_encoder.{remedy}`"):
        load_recipe(PRETRAIN, overrides)
