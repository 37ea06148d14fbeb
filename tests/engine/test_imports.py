"""Trainings that start from what other tools wrote: which weights arrive where, what is told, what is refused."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.convert.conftest import CPU, sections
from tests.engine.conftest import FINETUNE
from tests.foreign_models import (
    LLAVA_NAMES,
    TRANSFORMERS_5,
    Reference,
    make_blip2,
    make_hf_llava,
    make_llava_layout,
    rename_folder,
    renamed,
    write_tower,
)
from tests.legacy.checkpoints import make_legacy_checkpoint
from tests.standins import make_tokenizer
from vlmtool.chat.load import load_chat_model
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.templates.library import find_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.engine.build import build_model
from vlmtool.engine.init_from import Start, find_source, start_stage
from vlmtool.engine.meta import part_origins
from vlmtool.engine.setups import setup_of_run
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.fingerprint import part_hash
from vlmtool.models.lineage import Setup
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import saved_state
from vlmtool.recipe.load import parse_recipe
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import sha256

LORA = {"r": 4, "alpha": 8.0}
QFORMER = {
    "type": "vlmtool.models.projectors.qformer.QFormerProjector", "num_queries": 5, "hidden_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip


def built(standins, seed: int = 0, **changed: Any) -> tuple[VisionLanguageModel, Setup]:
    """The model of a recipe with fresh weights, shaken so that adapters are not zero, and how it is put together."""
    parts = {"llm": changed.pop("llm", {}), "vision_encoder": changed.pop("vision_encoder", {})}
    recipe = parse_recipe(sections(standins, **parts, **changed), "test")
    folders = {name: Path(path) for name, path in recipe.paths.items()}
    tokenizer = load_tokenizer(folders["llm"])
    torch.manual_seed(seed)
    model = build_model(recipe, folders, image_token_id(tokenizer), CPU).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    template = find_template(recipe.llm.template, tokenizer.chat_template)
    return model, setup_of_run(recipe, part_origins(recipe, folders), template, model)


def started(standins, source: Path, force: bool = False, **changed: Any) -> tuple[VisionLanguageModel, Start]:
    """The model of a recipe that starts from `source`."""
    model, setup = built(standins, seed=1, **changed)
    return model, start_stage(model, setup, find_source(str(source)), None, force)


def same(model: VisionLanguageModel, wanted: Mapping[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    assert wanted and all(torch.equal(own[name], value) for name, value in wanted.items())


# XTuner


def xtuner_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a run of vlmtool by the names that XTuner with transformers 4 gives them."""
    table = (
        (r"vision_encoder\.model\.base_model\.model\.", "visual_encoder.base_model.model.vision_model."),
        (r"vision_encoder\.model\.", "visual_encoder.vision_model."),
    )
    return renamed(state, table)


def write_xtuner(path: Path, state: Mapping[str, Tensor]) -> Path:
    """A .pth, with an adapter on the encoder's last block too, which nobody reads."""
    more = {name.replace("layers.1.", "layers.2."): v for name, v in state.items() if "vision_model" in name}
    content = {"meta": {"epoch": 1, "cfg": "model = dict(type=LLaVAModel)"}, "state_dict": {**state, **more}}
    torch.save({**content, "message_hub": None}, path)
    return path


def test_a_checkpoint_of_xtuner_gives_adapters_and_projector(standins, tmp_path):
    both = {"llm": {"lora": LORA}, "vision_encoder": {"lora": LORA}}
    trained, _ = built(standins, **both)
    path = write_xtuner(tmp_path / "epoch_1.pth", xtuner_names(saved_state(trained)))
    model, start = started(standins, path, **both)
    same(model, saved_state(trained))
    assert sorted(start.loaded) == sorted(saved_state(trained))
    (reason,) = start.imported.left
    assert "above the one that is read" in reason and all(".layers.2." in n for n in start.imported.left[reason])
    (parent,) = start.parents
    assert parent == {
        "checkpoint": str(path), "sha256": sha256(path), "name": "epoch_1.pth", "kind": "XTuner checkpoint", "stage": {}
    }  # fmt: skip
    assert not start.imported.fresh


def test_an_aligned_projector_of_xtuner_leaves_adapters_fresh(standins, tmp_path):
    trained, _ = built(standins)
    path = write_xtuner(tmp_path / "iter_9.pth", xtuner_names(saved_state(trained)))
    model, start = started(standins, path, llm={"lora": LORA})
    same(model, saved_state(trained))
    assert list(start.imported.fresh) == ["llm"]
    lines = start.imported.lines()
    assert lines[0] == f"init_from '{path}': XTuner checkpoint"
    assert lines[1].startswith("  projector: 4 weights (projector.model.0.weight, projector.model.0.bias, …) taken")
    assert re.fullmatch(r"  fresh: 28 weights \(.*\) of the llm", lines[2])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, r"for which the model has no place, first 'llm\.base_model"),
        ({"llm": {"lora": {"r": 2, "alpha": 8.0}}}, r"has shape \(4, 64\), the model's is \(2, 64\)"),
        (
            {"llm": {"lora": LORA}, "projector": {"depth": 3}},
            "another projector: MLPProjector 64 → 64, depth 2.*depth 3",
        ),
        ({"llm": {"lora": LORA}, "projector": QFORMER}, "another projector: MLPProjector .* has QFormerProjector"),
    ],
)
def test_a_recipe_that_does_not_fit_a_checkpoint_of_xtuner_is_told(standins, tmp_path, changed, said):
    trained, _ = built(standins, llm={"lora": LORA})
    path = write_xtuner(tmp_path / "epoch_1.pth", xtuner_names(saved_state(trained)))
    with pytest.raises(CheckpointError, match=said) as caught:
        started(standins, path, **changed)
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def xtuner_folder(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """What `xtuner convert pth_to_hf` writes."""
    for prefix, name in (("llm.", "llm_adapter"), ("visual_encoder.", "visual_encoder_adapter")):
        own = {n.removeprefix(prefix).replace(".default", ""): v for n, v in state.items() if n.startswith(prefix)}
        (folder / name).mkdir(parents=True)
        save_file(own, folder / name / "adapter_model.safetensors")
        (folder / name / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    (folder / "projector").mkdir()
    own = {n.removeprefix("projector."): v for n, v in state.items() if n.startswith("projector.")}
    save_file(own, folder / "projector" / "model.safetensors")
    config = {
        "auto_map": {"AutoModel": "modeling_projector.ProjectorModel"}, "model_type": "projector", "bias": True,
        "visual_hidden_size": 64, "llm_hidden_size": 64, "depth": 2, "hidden_act": "gelu",
    }  # fmt: skip
    (folder / "projector" / "config.json").write_text(json.dumps(config))
    (folder / "projector" / "modeling_projector.py").write_text("raise SystemExit('run')\n")
    return folder


def test_a_folder_of_xtuner_gives_adapters_and_projector_without_its_code(standins, tmp_path):
    both = {"llm": {"lora": LORA}, "vision_encoder": {"lora": LORA}}
    trained, _ = built(standins, **both)
    folder = xtuner_folder(tmp_path / "hf", xtuner_names(saved_state(trained)))
    model, start = started(standins, folder, **both)
    same(model, saved_state(trained))
    assert start.parents[0]["kind"] == "XTuner folder"
    with pytest.raises(CheckpointError, match=r"llm_adapter was trained with alpha 8; this recipe has .* 16"):
        started(standins, folder, llm={"lora": {"r": 4, "alpha": 16.0}}, vision_encoder={"lora": LORA})
    with pytest.raises(CheckpointError, match=r"llm_adapter was trained with rslora False; this recipe has .* True"):
        started(standins, folder, llm={"lora": {**LORA, "rslora": True}}, vision_encoder={"lora": LORA})
    with pytest.raises(CheckpointError, match="hidden_act gelu.*hidden_act relu"):
        started(standins, folder, projector={"depth": 2, "hidden_act": "relu"}, **both)


@torch.no_grad()
def test_an_adapter_of_fused_modules_becomes_that_of_the_native_class(standins, tmp_path):
    """InternLM2: the rows of B that belong to a head go to its q, k and v; the update of the weights is the same."""
    llm = tmp_path / "internlm2"
    make_legacy_checkpoint("internlm2", llm, tokenizer=make_tokenizer())
    config = json.loads((llm / "config.json").read_text())
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    draw = torch.Generator().manual_seed(0)
    rows = (heads + 2 * groups) * size
    a, b = (torch.randn(shape, generator=draw) for shape in ((4, config["hidden_size"]), (rows, 4)))
    name = "llm.base_model.model.model.layers.0.attention.wqkv.lora_{}.default.weight"
    state = {name.format("A"): a, name.format("B"): b}
    trained, _ = built(standins, llm={"path": str(llm)})
    projector = {n: v for n, v in saved_state(trained).items() if n.startswith("projector.")}
    path = write_xtuner(tmp_path / "epoch_1.pth", state | projector)
    model, _ = started(standins, path, llm={"path": str(llm), "lora": LORA})
    attention = model.llm.get_submodule("base_model.model.model.layers.0.self_attn")
    made = {
        part: (module := attention.get_submodule(f"{part}_proj")).lora_B["default"].weight
        @ module.lora_A["default"].weight
        for part in "qkv"
    }
    per_group = (b @ a).view(groups, heads // groups + 2, size, -1)  # queries, key, value of each group
    wanted = {"q": per_group[:, :-2], "k": per_group[:, -2], "v": per_group[:, -1]}
    for part, update in wanted.items():
        assert torch.allclose(made[part], update.reshape(made[part].shape), atol=1e-6)


# LLaVA


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Reference:
    return make_hf_llava(tmp_path_factory.mktemp("hf") / "llava")


@pytest.fixture(params=["transformers", "transformers 5", "LLaVA"])
def whole(request, llava, tmp_path) -> Path:
    """One model in three layouts."""
    if request.param == "LLaVA":
        return make_llava_layout(tmp_path / "model", llava, write_tower(tmp_path / "tower", llava), own_tower=True)
    folder = Path(shutil.copytree(llava.folder, tmp_path / "model"))
    if request.param == "transformers 5":
        rename_folder(folder, TRANSFORMERS_5, shards=2)
    return folder


def ours(reference: Reference) -> dict[str, Tensor]:
    """A model of transformers by the names of a model that is trained whole."""
    table = (
        (r"language_model\.", "llm."),
        (r"vision_tower\.", "vision_encoder.model."),
        (r"multi_modal_projector\.linear_1\.", "projector.model.0."),
        (r"multi_modal_projector\.linear_2\.", "projector.model.2."),
    )
    return {name: v for name, v in renamed(reference.state(), table).items() if "encoder.layers.2." not in name}


def test_a_whole_llava_gives_all_that_the_recipe_trains(standins, llava, whole):
    model, start = started(standins, whole, llm={"freeze": False}, vision_encoder={"freeze": False})
    same(model, ours(llava))
    assert set(start.loaded) == set(ours(llava)) and not start.imported.fresh
    assert start.parents[0]["sha256"] == part_hash(whole)


def test_of_a_whole_llava_what_is_not_trained_stays_the_recipes_own_and_is_told(standins, llava, whole):
    before, _ = built(standins, seed=1, llm={"lora": LORA})
    model, start = started(standins, whole, llm={"lora": LORA})
    same(model, {name: value for name, value in ours(llava).items() if name.startswith("projector.")})
    same(model, {n: p for n, p in before.named_parameters() if not n.startswith("projector.")})
    reasons = {reason: len(names) for reason, names in start.imported.left.items() if "computed" not in reason}
    assert len(reasons) == 2 and sum(reasons.values()) == len(llava.state()) - 4
    assert any(f"it stays '{standins.llama}'" in reason for reason in reasons)


def test_a_llava_of_transformers_serves_as_the_recipes_parts(standins, llava):
    folder = str(llava.folder)
    parts = {"llm": {"path": folder, "lora": LORA}, "vision_encoder": {"path": folder}}
    model, start = started(standins, llava.folder, **parts)
    assert any("llm is this very folder" in reason for reason in start.imported.left)
    wanted = ours(llava)
    own = {name.replace("base_model.model.", "").replace(".base_layer", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(own[name], value) for name, value in wanted.items())


def test_llavas_first_stage_gives_its_projector(standins, llava, tmp_path):
    state = {n: v for n, v in renamed(llava.state(), LLAVA_NAMES).items() if "mm_projector" in n}
    torch.save(state, tmp_path / "mm_projector.bin")
    wanted = {name: value for name, value in ours(llava).items() if name.startswith("projector.")}
    model, start = started(standins, tmp_path / "mm_projector.bin")
    same(model, wanted)
    assert start.parents[0]["kind"] == "LLaVA projector" and len(start.loaded) == 4
    same(started(standins, tmp_path)[0], wanted)
    config = {"mm_vision_tower": "x", "mm_vision_select_layer": -1, "mm_hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="select_layer -1; this recipe reads it with select_layer -2"):
        started(standins, tmp_path)
    with pytest.raises(CheckpointError, match="another projector: MLPProjector 64 → 64.*has XDPProjector"):
        started(
            standins, tmp_path / "mm_projector.bin", projector={"type": "vlmtool.models.projectors.xdp.XDPProjector"}
        )


@pytest.mark.parametrize("name", ["model.mm_projector.0.weight", "model.mm_projector.weight"])
@pytest.mark.parametrize("projector", [{"depth": 1}, {"type": "vlmtool.models.projectors.linear.LinearProjector"}])
def test_one_layer_is_one_layer_whatever_its_class(standins, tmp_path, name, projector):
    value = torch.randn(64, 64)
    torch.save({name: value, name.replace("weight", "bias"): torch.ones(64)}, tmp_path / "mm_projector.bin")
    model, _ = started(standins, tmp_path, projector=projector)
    same(model, {"projector.model.0.weight": value})


def test_the_activation_that_a_config_says_must_agree(standins, llava, tmp_path):
    folder = Path(shutil.copytree(llava.folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"projector_hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="hidden_act relu.*hidden_act gelu"):
        started(standins, folder)
    (folder / "config.json").write_text(json.dumps(config | {"vision_feature_select_strategy": "full"}))
    with pytest.raises(CheckpointError, match="select_strategy full; .* select_strategy auto"):
        started(standins, folder)


def test_a_layer_counted_from_the_other_end_is_the_same_layer(standins, llava, tmp_path):
    folder = Path(shutil.copytree(llava.folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vision_feature_layer": 2}))  # of 3 blocks
    assert len(started(standins, folder)[1].loaded) == 4


# BLIP-2


def lavis_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BLIP-2 of transformers by LAVIS's names, with what else its files hold."""
    layer = r"qformer\.(encoder\.layer\.\d+)\."
    table = (
        (rf"{layer}(attention|crossattention)\.attention\.", r"Qformer.bert.\1.\2.self."),
        (layer, r"Qformer.bert.\1."),
        (r"qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
        (r"vision_model\.post_layernorm\.", "ln_vision."),
        (r"vision_model\.", "visual_encoder."),
        (r"language_projection\.", "opt_proj."),
        (r"language_model\.", "opt_model."),
    )
    others = ("Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions.bias", "temp", "itm_head.bias")
    text = ("Qformer.bert.encoder.layer.0.intermediate.dense.weight", "Qformer.bert.encoder.layer.0.output.dense.bias")
    return renamed(state, table) | {name: torch.ones(2) for name in (*others, *text, "vision_proj.weight")}


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("blip2")
    model = make_blip2(folder / "hf")
    torch.save({"model": lavis_names(load_file(folder / "hf" / "model.safetensors"))}, folder / "lavis.pth")
    model.qformer.save_pretrained(folder / "alone")
    return folder, model


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), [("hf", "BLIP-2 model of"), ("lavis.pth", "BLIP-2 checkpoint of LAVIS")])
def test_a_q_former_reads_patches_as_in_blip_2(standins, blip2, name, kind):
    folder, theirs = blip2
    model, start = started(standins, folder / name, projector=QFORMER)
    assert start.imported.lines()[0].startswith(f"init_from '{folder / name}': {kind}")
    patches = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(5))
    seen = torch.nn.functional.layer_norm(patches, (64,), *theirs.vision_model.post_layernorm.parameters())  # eps 1e-5
    queries = theirs.query_tokens.expand(2, -1, -1)
    wanted = theirs.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    read = model.projector.qformer(
        model.projector.query_tokens.expand(2, -1, -1), encoder_hidden_states=model.projector.ln_vision(patches)
    ).last_hidden_state
    assert (read - wanted).abs().max() < 1e-5
    assert start.imported.fresh == {
        "projector": ["projector.language_projection.weight", "projector.language_projection.bias"]
    }
    reasons = " ".join(start.imported.left)
    assert "of another width" in reasons and "vision_encoder.path" in reasons and "llm.path" in reasons
    assert ("reading of text" in reasons and "first stage" in reasons) == (name == "lavis.pth")
    named = [name for names in (*start.imported.left.values(), *start.imported.taken.values()) for name in names]
    held = lavis_names(theirs.state_dict()) if name == "lavis.pth" else load_file(folder / "hf" / "model.safetensors")
    assert len(named) == len(set(named)) == len([n for n in held if n != "opt_model.lm_head.weight"])


def test_the_last_layer_of_a_blip_2_is_taken_where_it_fits(standins, tmp_path):
    theirs = make_blip2(tmp_path / "hf", llm_width=64)
    model, start = started(standins, tmp_path / "hf", projector=QFORMER)
    assert torch.equal(model.projector.language_projection.weight, theirs.language_projection.weight)
    assert not start.imported.fresh


def test_a_q_former_alone_leaves_queries_and_norm_fresh(standins, blip2):
    _, start = started(standins, blip2[0] / "alone", projector=QFORMER)
    fresh = {name.removeprefix("projector.").partition(".")[0] for name in start.imported.fresh["projector"]}
    assert fresh == {"query_tokens", "ln_vision", "language_projection"}


@pytest.mark.parametrize("name", ["hf", "lavis.pth"])
@pytest.mark.parametrize(
    ("projector", "said"),
    [
        ({"depth": 2}, "another projector: QFormerProjector .*has MLPProjector"),
        ({**QFORMER, "num_queries": 7}, "num_queries 5.*num_queries 7"),
        ({**QFORMER, "num_hidden_layers": 2}, "num_hidden_layers 4.*num_hidden_layers 2"),
    ],
)
def test_another_projector_than_the_q_former_is_named_beside_it(standins, blip2, name, projector, said):
    with pytest.raises(CheckpointError, match=said):
        started(standins, blip2[0] / name, projector=projector)


def test_heads_of_a_q_former_which_no_shape_tells_must_agree(standins, blip2):
    with pytest.raises(CheckpointError, match="num_attention_heads 4.*num_attention_heads 2"):
        started(standins, blip2[0] / "hf", projector={**QFORMER, "num_attention_heads": 2})


# The whole way


def test_a_run_tells_what_it_took_and_where_it_comes_from(run, llava, tmp_path, capsys):
    source = f"init_from={str(llava.folder)!r}"
    folder = run("next", "llm.lora=dict(r=8, alpha=16)", "schedule.max_steps=1", source)
    said = capsys.readouterr().err
    assert f"init_from '{llava.folder}': LLaVA model of transformers\n  projector: 4 weights" in said
    assert "not taken: 21 weights" in said and "fresh:" in said
    found = json.loads((folder / "init_from.json").read_text())
    assert sum(map(len, [*found["taken"].values(), *found["left"].values()])) == len(llava.state())
    parents = read_checkpoint(folder / "iter_1.pth").meta["parents"]
    assert [(entry["kind"], entry["sha256"]) for entry in parents] == [(found["kind"], part_hash(llava.folder))]
    assert invoke(app, ["inspect", str(folder)], debug=False) == 0
    assert "LLaVA model of transformers" in (out := capsys.readouterr().out)
    assert f"{part_hash(llava.folder)[:12]} agrees" in out


def test_a_folder_trained_on_a_llava_of_transformers_chats(run, llava, tmp_path):
    parts = [f"{part}.path={str(llava.folder)!r}" for part in ("llm", "vision_encoder")]
    lora = "llm.lora=dict(r=8, alpha=16)"
    folder = run("next", *parts, lora, "schedule.max_steps=1", f"init_from={str(llava.folder)!r}")
    hf = pth_to_hf(None, folder / "iter_1.pth", tmp_path / "hf")
    model = load_chat_model(str(hf), device="cpu").model
    trained, wanted = read_checkpoint(folder / "iter_1.pth").state_dict, ours(llava)
    own = {name.replace("base_model.model.", "").replace(".base_layer", ""): p for name, p in model.named_parameters()}
    for name, value in wanted.items():
        assert torch.equal(own[name], trained.get(name, value)), name


def test_the_dry_run_tells_it_before(small, llava, tmp_path, capsys):
    settings = [*small, "llm.lora=dict(r=8, alpha=16)", f"init_from={str(llava.folder)!r}"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    code = invoke(app, ["train", FINETUNE, "--work-dir", str(tmp_path / "x"), "--dry-run", *arguments], debug=False)
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0 and "4 tensors of" in said and "tensors not taken: the recipe does not train the whole llm" in said
