"""From folders and flags to a model: each weight once, adapters only on their own base, every misfit an error."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chat.conftest import TEMPLATE, tiny_llm
from tests.chat.folders import Folders, write_folders, write_xtuner_folder
from vlmtool.chat.generator import GenerationSettings, Generator, Request
from vlmtool.chat.load import load_chat_model
from vlmtool.chat.model_plan import Flags, PartPlan
from vlmtool.chat.plan import make_plan
from vlmtool.data.conversation import Image, user
from vlmtool.models.fingerprint import config_hash
from vlmtool.models.folder import load_projector, save_projector
from vlmtool.utils.errors import CheckpointError, RecipeError, UsageError


@pytest.fixture(scope="session")
def folders(tmp_path_factory, llm_folder, vision_folder) -> Folders:
    return write_folders(tmp_path_factory.mktemp("models"), llm_folder, vision_folder)


@pytest.fixture
def copy(folders, tmp_path) -> Path:
    """The model folder, to be spoiled."""
    return Path(shutil.copytree(folders.model, tmp_path / "copy"))


def load(model: Path | str | None, **flags) -> Generator:
    return load_chat_model(str(model) if model else None, device="cpu", **{k: str(v) for k, v in flags.items()})


def plan_of(warnings: list[str] | None = None, **flags):
    said = {name: str(value) for name, value in flags.items()}
    return make_plan(Flags(**said), (warnings if warnings is not None else []).append)


def answer(generator: Generator, *images: str) -> str:
    request = Request((user(*[Image(image) for image in images], "What?"),))
    return generator.generate([request], GenerationSettings(max_new_tokens=16))[0]


@pytest.fixture
def expected(folders, pictures) -> str:
    """The whole folder's answer about a picture."""
    return answer(load(folders.model), pictures[0])


def test_a_folder_alone_is_enough(folders, pictures, expected):
    generator = load(folders.model)
    model = generator.model
    base = tiny_llm()
    inputs = torch.randint(0, 256, (1, 9))
    assert not torch.allclose(model.llm(inputs).logits, base(inputs).logits, atol=1e-2)  # the adapter works
    assert not any(p.requires_grad for p in model.parameters()) and not any(m.training for m in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert generator.renderer.template.jinja == TEMPLATE and generator.renderer.template.stop_words == ("###",)
    assert generator.transform.views.pad_to_square
    assert expected != answer(generator, pictures[1])


def test_the_merged_parts_with_the_folder_are_the_folder(folders, pictures, expected):
    """The adapters are inside the merged weights and are not put on them a second time. Float32: the same answer."""
    merged = load(folders.merged_llm, llava=folders.model, visual_encoder=folders.merged_vision)
    assert answer(merged, pictures[0]) == expected
    plan = plan_of(model=folders.merged_llm, llava=folders.model, visual_encoder=folders.merged_vision)
    assert (plan.llm, plan.vision_encoder) == (PartPlan(folders.merged_llm), PartPlan(folders.merged_vision))


def test_the_bases_with_the_folder_are_the_folder(folders, pictures, expected):
    warnings: list[str] = []
    plan = plan_of(warnings, model=folders.llm, llava=folders.model, visual_encoder=folders.vision)
    assert plan == plan_of(model=folders.model) and not warnings
    assert answer(load(folders.llm, llava=folders.model), pictures[0]) == expected
    assert plan_of(llava=folders.model) == plan


def test_another_language_model_is_refused(folders, tmp_path):
    other = tmp_path / "other"
    tiny_llm(seed=9).save_pretrained(other)
    with pytest.raises(CheckpointError, match=r"[0-9a-f]{12}; .*other.*[0-9a-f]{12}\."):
        plan_of(model=other, llava=folders.model)


def test_another_language_model_may_be_forced(folders, tmp_path, pictures, capsys):
    other = tmp_path / "other"
    tiny_llm(seed=9).save_pretrained(other)
    plan = make_plan(Flags(str(other), llava=str(folders.model)), lambda text: None, force=True)
    assert plan.llm == PartPlan(other, folders.model / "llm_adapter")
    assert f"'{other}' has weights" in capsys.readouterr().err
    adapter = str(folders.model / "llm_adapter")
    with pytest.raises(CheckpointError, match=r"[0-9a-f]{12}.*[0-9a-f]{12}"):
        plan_of(model=other, adapter=adapter)
    assert make_plan(Flags(str(other), adapter=adapter), print, force=True).llm.adapter == Path(adapter)


def test_a_base_with_another_config_is_refused(folders, tmp_path, copy):
    base = Path(shutil.copytree(folders.llm, tmp_path / "base"))
    manifest = json.loads((copy / "vlmtool.json").read_text())
    manifest["llm"]["config_sha256"] = config_hash(base)
    (copy / "vlmtool.json").write_text(json.dumps(manifest))
    assert plan_of(model=base, llava=copy).llm.weights == base
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(CheckpointError, match=r"config\.json [0-9a-f]{12}; '.*base' has config\.json [0-9a-f]{12}"):
        plan_of(model=base, llava=copy)


def test_a_base_that_changed_is_refused(folders, tmp_path, copy):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    tiny_llm(seed=9).save_pretrained(tmp_path / "base")
    manifest["llm"]["base"] = str(tmp_path / "base")
    (copy / "vlmtool.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="has weights"):
        plan_of(model=copy)
    assert plan_of(model=folders.llm, llava=copy).llm.weights == folders.llm  # the flag gives the right one


def test_a_base_that_is_gone_says_how_to_name_it(copy):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    manifest["llm"]["base"] = "/no/such/llm"
    (copy / "vlmtool.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="--llava"):
        plan_of(model=copy)


def test_a_relative_base_is_found_beside_the_folder(folders, copy):
    manifest = json.loads((copy / "vlmtool.json").read_text())
    shutil.copytree(folders.llm, copy.parent / "base_llm")
    manifest["llm"]["base"] = "../base_llm"
    (copy / "vlmtool.json").write_text(json.dumps(manifest))
    assert plan_of(model=copy).llm.weights.samefile(copy.parent / "base_llm")


@pytest.mark.parametrize("given", ["folder", "hub id"])
def test_another_encoder_loses_to_the_folders_own_with_a_warning(folders, tmp_path, given):
    name = "openai/clip-vit-large-patch14"
    if given == "folder":
        name = str(shutil.copytree(folders.vision, tmp_path / "other"))
        save_file({"x": torch.ones(1)}, tmp_path / "other" / "model.safetensors")
    warnings: list[str] = []
    plan = plan_of(warnings, model=folders.llm, llava=folders.model, visual_encoder=name)
    assert plan.vision_encoder.weights == folders.vision
    assert len(warnings) == 1 and name in warnings[0] and str(folders.vision) in warnings[0]


def test_select_layer_and_template_of_the_folder_win(folders):
    warnings: list[str] = []
    plan = make_plan(Flags(str(folders.model), visual_select_layer=-1, prompt_template="vicuna"), warnings.append)
    assert plan == plan_of(model=folders.model)
    assert len(warnings) == 2 and "vicuna" in warnings[1] and "tiny" in warnings[1]
    make_plan(Flags(str(folders.model), visual_select_layer=-2, prompt_template="tiny"), warnings.append)
    assert len(warnings) == 2


def test_whole_weights_in_the_folder_are_used(folders, copy, pictures, expected):
    """What `convert merge FOLDER` writes: no base is needed."""
    shutil.rmtree(copy / "llm_adapter")
    shutil.rmtree(copy / "visual_encoder_adapter")
    shutil.copytree(folders.merged_llm, copy / "llm")
    shutil.copytree(folders.merged_vision, copy / "visual_encoder")
    manifest = json.loads((copy / "vlmtool.json").read_text())
    manifest["llm"] |= {"adapter": None, "weights": "llm", "base": "/gone"}
    manifest["vision_encoder"] |= {"adapter": None, "weights": "visual_encoder", "base": "/gone"}
    (copy / "vlmtool.json").write_text(json.dumps(manifest))
    assert answer(load(copy), pictures[0]) == expected
    warnings: list[str] = []
    plan = plan_of(warnings, model=folders.llm, llava=copy, visual_encoder=folders.merged_vision)
    assert plan.llm.weights == copy / "llm" and not warnings


def test_a_folder_of_xtuner_takes_the_flags_as_given(folders, tmp_path, pictures, expected):
    folder = write_xtuner_folder(tmp_path / "xtuner", folders)
    flags = dict(llava=folder, visual_encoder=folders.vision)
    assert answer(load(folders.llm, **flags), pictures[0]) == expected
    merged = plan_of(model=folders.merged_llm, **flags)
    assert merged.llm == PartPlan(folders.merged_llm)
    with pytest.raises(UsageError, match="--visual-encoder"):
        plan_of(model=folders.llm, llava=folder)
    with pytest.raises(UsageError, match="--llava"):
        plan_of(llava=folder, visual_encoder=folders.vision)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run", r"this is a run folder, not a model\.\nConvert it first: vlmtool convert pth_to_hf .*iter_3\.pth"),
        ("model/projector", r"this is a projector, not a model\.\nGive its model folder: .*model$"),
        ("model/llm_adapter", r"this is an adapter, not a model\.\nGive its model folder: .*model$"),
        ("vision", r"this is an image encoder \('clip_vision_model'\), not a model"),
    ],
)
def test_folders_that_are_no_model_say_what_they_are(folders, tmp_path, name, said):
    for source in (folders.model, folders.vision):
        shutil.copytree(source, tmp_path / ("model" if source == folders.model else "vision"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "iter_3.pth").touch()
    with pytest.raises(UsageError, match=said):
        load(tmp_path / name)
    with pytest.raises(UsageError, match=said.replace(r"a model\.", r"a model folder\.")):
        load(folders.llm, llava=tmp_path / name)


def test_a_checkpoint_in_place_of_a_model_is_told_with_how_to_convert_it(folders, tmp_path):
    checkpoint = tmp_path / "iter_1.pth"
    checkpoint.touch()
    command = f"Convert it first: vlmtool convert pth_to_hf %s {checkpoint} SAVE_PATH"
    for config in ("CONFIG", tmp_path / "recipe.py"):
        for what, flags in (("MODEL", dict(model=checkpoint)), ("--llava", dict(model=folders.llm, llava=checkpoint))):
            with pytest.raises(UsageError) as caught:
                load(**flags)
            assert (
                str(caught.value) == f"{what}: '{checkpoint}' is a checkpoint, not a model folder.\n{command % config}"
            )
        (tmp_path / "recipe.py").touch()


def test_a_language_model_alone_chats_without_images(folders, pictures):
    generator = load(folders.llm)
    assert answer(generator)
    with pytest.raises(UsageError, match="reads no images"):
        answer(generator, pictures[0])
    adapted = load(folders.llm, adapter=folders.model / "llm_adapter")
    assert answer(adapted) != answer(generator)
    assert plan_of(model=folders.merged_llm, adapter=folders.model / "llm_adapter").llm.adapter is None


def spoil(copy: Path, name: str, change) -> None:
    """Change the tensors of an adapter or a projector."""
    file = copy / name
    tensors = load_file(file)
    change(tensors, next(iter(tensors)))
    save_file(tensors, file)


@pytest.mark.parametrize("part", ["llm_adapter", "visual_encoder_adapter"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, k: t.pop(k), "is missing"),
        (lambda t, k: t.update({k.replace(".0.", ".77."): t[k].clone()}), "is unknown to the part"),
        (lambda t, k: t.update({k: torch.ones(3, 64)}), "has shape"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(copy, part, change, said):
    spoil(copy, f"{part}/adapter_model.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        load(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"r": "eight"}, {"r": 0}, {"r": None}, {"lora_alpha": "x"}, {"target_modules": "("}, {"target_modules": ["no"]},
        {"target_modules": 3}, {"peft_type": "NO_SUCH"}, {"peft_type": "PREFIX_TUNING"}, {"rank_pattern": 7},
        {"modules_to_save": ["lm_head"]}, {"layers_to_transform": "x"},
    ],
)  # fmt: skip
def test_an_adapter_with_an_odd_config_is_an_error(copy, change):
    file = copy / "llm_adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match="llm_adapter") as caught:
        load(copy)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_an_adapter_with_a_damaged_config_is_an_error(copy, content):
    (copy / "llm_adapter" / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="llm_adapter"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, k: t.pop(k), "missing"),
        (lambda t, k: t.update(odd=torch.ones(1)), "no place"),
        (lambda t, k: t.update({k: torch.ones(3)}), "has shape"),
    ],
)
def test_a_projector_that_does_not_fit_is_an_error(copy, change, said):
    spoil(copy, "projector/model.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        load_projector(copy / "projector")


@pytest.mark.parametrize("file", ["llm_adapter/adapter_model.safetensors", "projector/model.safetensors"])
def test_a_cut_file_is_an_error(copy, file):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=file.split("/")[0]):
        load(copy)


def test_a_projector_of_other_widths_is_an_error(copy):
    shutil.rmtree(copy / "projector")
    config = {"type": "vlmtool.models.projectors.linear.LinearProjector", "vision_hidden_size": 64}
    config |= {"llm_hidden_size": 32, "options": {"bias": False}}
    save_projector(copy / "projector", config, {"model.0.weight": torch.ones(32, 64)})
    with pytest.raises(CheckpointError, match="64 to 32"):
        load(copy)


@pytest.mark.parametrize("type_name", ["subprocess.Popen", "no.such.Class", "torch.nn.Linear", None])
def test_a_projectors_config_names_only_projectors(copy, type_name):
    file = copy / "projector" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"type": type_name}))
    with pytest.raises(CheckpointError):
        load_projector(copy / "projector")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (dict(model=None), "No model"),
        (dict(model="/nope"), "no folder '/nope'"),
        (dict(model="LLM", llava="/nope"), "--llava"),
        (dict(model="LLM", adapter="/nope"), "--adapter"),
        (dict(model="LLM", llava="LLM"), "not a model folder"),
        (dict(model="LLM", visual_encoder="x"), "--llava"),
        (dict(model="MODEL", llava="COPY"), "both whole models"),
        (dict(model="MODEL", adapter="x"), "holds its own"),
        (dict(model="LLM", llava="MODEL", adapter="x"), "exclude"),
        (dict(model="MODEL", visual_encoder="/nope"), "--visual-encoder"),
        (dict(model="MODEL", torch_dtype="fp17"), "Did you mean 'fp16'"),
        (dict(model="MODEL", bits=5), "4 or 8"),
        (dict(model="MODEL", device="gpu"), "--device"),
        (dict(model="MODEL", device="cuda:99"), "GPUs"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_loaded(folders, copy, flags, said, monkeypatch):
    monkeypatch.setattr("vlmtool.chat.load.build_llm", None)
    names = {"LLM": str(folders.llm), "MODEL": str(folders.model), "COPY": str(copy)}
    with pytest.raises(UsageError, match=said):
        load_chat_model(**{key: names.get(value, value) for key, value in flags.items()})


def test_a_language_model_without_a_template_needs_one(folders, tmp_path):
    llm = Path(shutil.copytree(folders.llm, tmp_path / "llm"))
    (llm / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match="no chat template"):
        load(llm)
    assert load(llm, prompt_template="vicuna").renderer.template.name == "vicuna"


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_models_answer(folders, pictures, bits):
    generator = load_chat_model(str(folders.model), bits=bits, device="cpu")
    names = {type(module).__name__ for module in generator.model.llm.modules()}
    assert names & {"Linear4bit", "Linear8bitLt"}
    assert answer(generator, pictures[0])


def test_the_identity_tells_models_apart(folders, copy):
    same = load(folders.model)
    assert same.identity == load(copy).identity
    others = {load(folders.llm).identity, load(folders.model, torch_dtype="bf16").identity}
    spoil(copy, "projector/model.safetensors", lambda tensors, key: tensors[key].add_(1))
    others.add(load(copy).identity)
    assert len(others | {same.identity}) == 4
