"""A model folder against the training model it comes from, its parts loaded with transformers and peft alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPVisionModel, SiglipVisionModel

from tests.convert.conftest import LORA, features, input_ids, logits, pixels, plain_llm
from tests.standins import make_llama
from vlmtool.convert import export_vlmtool, whole
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.data.templates.library import find_template
from vlmtool.models.folder import load_projector
from vlmtool.models.llm import keep_gradients_on_cpu, quantization_config
from vlmtool.models.manifest import read_manifest
from vlmtool.utils.errors import CheckpointError, UsageError
from vlmtool.utils.files import sha256


def test_adapters_of_both_parts_and_the_projector(train, standins, tmp_path):
    run = train(llm={"lora": LORA}, vision_encoder={"lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")

    llm = PeftModel.from_pretrained(plain_llm(standins.llama), folder / "llm_adapter")
    torch.testing.assert_close(logits(llm), logits(run.model.llm), rtol=0, atol=1e-6)
    assert not torch.allclose(logits(llm), logits(plain_llm(standins.llama)), atol=1e-2)

    encoder = PeftModel.from_pretrained(
        CLIPVisionModel.from_pretrained(standins.clip), folder / "visual_encoder_adapter"
    )
    with torch.no_grad():
        ours = run.model.vision_encoder(pixels())[0]
    torch.testing.assert_close(features(encoder)[:, 1:], ours, rtol=0, atol=1e-6)
    assert not torch.allclose(features(CLIPVisionModel.from_pretrained(standins.clip))[:, 1:], ours, atol=1e-2)

    projector = load_projector(folder / "projector")
    torch.testing.assert_close(projector.state_dict(), run.model.projector.state_dict(), rtol=0, atol=0)
    assert sorted(load_file(folder / "projector" / "model.safetensors")) == [
        "model.0.bias", "model.0.weight", "model.2.bias", "model.2.weight",
    ]  # fmt: skip


def test_adapters_find_their_bases(train, standins, tmp_path):
    run = train(llm={"lora": LORA}, vision_encoder={"path": str(standins.siglip), "lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    torch.testing.assert_close(
        logits(AutoPeftModelForCausalLM.from_pretrained(folder / "llm_adapter")), logits(run.model.llm)
    )
    encoder = AutoPeftModel.from_pretrained(folder / "visual_encoder_adapter")
    assert isinstance(encoder.base_model.model, SiglipVisionModel)
    with torch.no_grad():
        torch.testing.assert_close(features(encoder), run.model.vision_encoder(pixels())[0])  # no CLS to drop


def test_adapter_of_a_quantised_llm(train, standins, tmp_path):
    run = train(llm={"lora": LORA, "quantization": "nf4"})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    settings = quantization_config("nf4", torch.float32)
    base = plain_llm(standins.llama, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"})
    keep_gradients_on_cpu(base)
    llm = PeftModel.from_pretrained(base, folder / "llm_adapter")
    torch.testing.assert_close(logits(llm), logits(run.model.llm), rtol=0, atol=1e-6)


def test_no_llm_is_loaded_for_an_adapter(train, tmp_path, standins, monkeypatch):
    base = shutil.copytree(standins.llama, tmp_path / "base")
    run = train(llm={"path": str(base), "lora": LORA, "quantization": "nf4"})
    (base / "model.safetensors").unlink()
    for name in ("from_config", "from_pretrained"):
        monkeypatch.setattr(whole.AutoModelForCausalLM, name, lambda *_, **__: pytest.fail("an LLM is built"))
    assert (pth_to_hf(None, run.path, tmp_path / "hf") / "llm_adapter" / "adapter_model.safetensors").is_file()


def test_frozen_parts_leave_the_projector_alone(train, tmp_path):
    run = train(llm={"quantization": "nf4"})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["projector"]
    manifest = read_manifest(folder)
    for part in (manifest.llm, manifest.vision_encoder):
        assert part.adapter is None and part.weights is None and part.sha256


@pytest.mark.parametrize("name", ["llama", "internlm"])
def test_fully_trained_llm(name, train, standins, tmp_path):
    run = train(llm={"path": str(getattr(standins, name)), "freeze": False})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf", max_shard_size="100KB")
    assert len(list((folder / "llm").glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(logits(plain_llm(folder / "llm")), logits(run.model.llm), rtol=0, atol=1e-6)
    assert len(AutoTokenizer.from_pretrained(folder / "llm")) == 384
    assert read_manifest(folder).llm.weights == "llm"


def test_fully_trained_llm_with_tied_embeddings(train, standins, tmp_path):
    base = plain_llm(standins.llama)
    base.config.tie_word_embeddings = True
    base.tie_weights()
    shutil.copytree(standins.llama, tmp_path / "tied")
    base.save_pretrained(tmp_path / "tied")
    run = train(llm={"path": str(tmp_path / "tied"), "freeze": False})
    assert "llm.lm_head.weight" not in torch.load(run.path, weights_only=True)["state_dict"]
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    torch.testing.assert_close(logits(plain_llm(folder / "llm")), logits(run.model.llm), rtol=0, atol=1e-6)


def test_fully_trained_encoder_keeps_the_upper_blocks_of_its_base(train, standins, tmp_path):
    run = train(llm={"freeze": True}, vision_encoder={"freeze": False})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    encoder, base = (CLIPVisionModel.from_pretrained(f) for f in (folder / "visual_encoder", standins.clip))
    with torch.no_grad():
        torch.testing.assert_close(features(encoder)[:, 1:], run.model.vision_encoder(pixels())[0])
    last = [name for name in base.state_dict() if ".layers.2." in name]
    assert last
    for name in last:
        assert torch.equal(encoder.state_dict()[name], base.state_dict()[name])
    AutoImageProcessor.from_pretrained(folder / "visual_encoder", backend="pil")


def test_types_follow_the_bases(train, tmp_path):
    base = make_llama(tmp_path / "half", 1, dtype=torch.bfloat16)
    run = train(llm={"path": str(base), "lora": LORA}, vision_encoder={"lora": LORA})
    for fp32, expected in ((False, torch.bfloat16), (True, torch.float32)):
        folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf", fp32=fp32)
        for name in ("llm_adapter/adapter_model", "projector/model"):
            assert {t.dtype for t in load_file(folder / f"{name}.safetensors").values()} == {expected}
        encoder = load_file(folder / "visual_encoder_adapter" / "adapter_model.safetensors")
        assert {t.dtype for t in encoder.values()} == {torch.float32}  # its own base's


def test_the_root_prompts_like_the_training(train, standins, tmp_path):
    run = train(llm={"path": str(standins.internlm), "lora": LORA, "template": "internlm_chat"})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = find_template("internlm_chat", None)
    assert tokenizer.chat_template == template.jinja
    assert tokenizer.encode("<image>", add_special_tokens=False) == [384]
    assert AutoImageProcessor.from_pretrained(folder, backend="pil").size == {"shortest_edge": 32}
    manifest = read_manifest(folder)
    assert manifest.template.name == "internlm_chat" and manifest.template.stop_words == template.stop_words


def test_the_manifest_says_where_it_comes_from(train, standins, tmp_path):
    run = train(llm={"lora": LORA}, vision_encoder={"select_layer": -1})
    manifest = read_manifest(pth_to_hf(run.recipe, run.path, tmp_path / "hf"))
    assert manifest.llm.base == str(standins.llama) and manifest.llm.adapter == "llm_adapter"
    assert manifest.vision_encoder.select_layer == -1 and manifest.pad_to_square
    assert manifest.parents == (
        {
            "checkpoint": str(run.path), "sha256": sha256(run.path), "name": "test", "step": 7, "epoch": 0,
            "stage": {"llm": "lora r=8 alpha=16", "vision_encoder": "frozen", "projector": "full"},
        },
    )  # fmt: skip
    assert (
        manifest.recipe["llm"]["lora"]["r"] == 8
        and manifest.data == {"path": "x.json"}
        and "torch" in manifest.versions
    )


def test_the_whole_folder_is_the_training_model(train, tmp_path):
    from vlmtool.chat.load import load_chat_model

    run = train(llm={"lora": LORA}, vision_encoder={"lora": LORA})
    chat = load_chat_model(str(pth_to_hf(run.recipe, run.path, tmp_path / "hf")), device="cpu").model
    assert chat.image_token_id == run.model.image_token_id
    ids = torch.cat([torch.full((2, 4), chat.image_token_id), input_ids()], dim=1)
    with torch.no_grad():
        ours, theirs = (m.llm(inputs_embeds=m.embed(ids, m.encode_images(pixels()))).logits for m in (chat, run.model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"llm": {"lora": {"r": 4, "alpha": 16.0}}}, ("llm.lora.r = 8", "says 4")),
        ({"llm": {}}, ("llm.lora", "says None")),
        ({"llm": {"lora": LORA, "template": "plain"}}, ("llm.template = 'vicuna'", "says 'plain'")),
        ({"llm": {"lora": LORA}, "projector": {"depth": 3}}, ("projector.depth = 2", "says 3")),
        ({"llm": {"lora": LORA}, "vision_encoder": {"select_layer": -1}}, ("select_layer = -2", "says -1")),
    ],
)  # fmt: skip
def test_another_recipe_is_refused(change, named, train, tmp_path):
    other = train(**change).recipe
    run = train(llm={"lora": LORA})
    with pytest.raises(CheckpointError) as caught:
        pth_to_hf(other, run.path, tmp_path / "hf")
    assert all(text in str(caught.value) for text in named) and not (tmp_path / "hf").exists()


def test_data_schedule_and_place_of_the_bases_may_differ(train, standins, tmp_path):
    moved = shutil.copytree(standins.llama, tmp_path / "moved")
    run = train(llm={"lora": LORA})
    llm = run.recipe.llm.model_copy(update={"path": str(moved), "lr": 1e-5})
    data = run.recipe.data.model_copy(update={"path": "elsewhere.json"})
    other = run.recipe.model_copy(update={"llm": llm, "data": data})
    manifest = read_manifest(pth_to_hf(other, run.path, tmp_path / "hf"))
    assert manifest.llm.base == str(moved)
    assert manifest.pad_to_square  # as it was trained


def test_another_padding_is_refused_as_it_belongs_to_the_model(train, tmp_path):
    run = train(llm={"lora": LORA})
    data = run.recipe.data.model_copy(update={"pad_to_square": False})
    other = run.recipe.model_copy(update={"data": data})
    with pytest.raises(CheckpointError, match="data.pad_to_square = True, but the recipe says False"):
        pth_to_hf(other, run.path, tmp_path / "hf")


def test_bases_are_recorded_by_a_name_that_holds(train, standins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(standins.llama, "lmsys/vicuna")
    shutil.copytree(standins.clip, "parts/of/mine")
    run = train(llm={"path": "lmsys/vicuna", "lora": LORA}, vision_encoder={"path": "./parts/of/mine", "lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    manifest = read_manifest(folder)
    assert manifest.llm.base == "lmsys/vicuna"  # may be a hub's
    assert manifest.vision_encoder.base == str(tmp_path / "parts" / "of" / "mine")
    for name, part in (("llm_adapter", manifest.llm), ("visual_encoder_adapter", manifest.vision_encoder)):
        settings = json.loads((folder / name / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == part.base


def test_a_base_with_other_weights_is_refused(train, tmp_path):
    base = make_llama(tmp_path / "base", 1)
    run = train(llm={"path": str(base), "lora": LORA})
    make_llama(base, 2)
    with pytest.raises(CheckpointError, match="was trained on llm .* has weights"):
        pth_to_hf(run.recipe, run.path, tmp_path / "hf")


def test_a_diverged_training_is_not_written(train, tmp_path):
    run = train(llm={"lora": LORA})
    content = torch.load(run.path, weights_only=True)
    content["state_dict"]["projector.model.0.bias"][3] = float("nan")
    torch.save(content, run.path)
    with pytest.raises(CheckpointError, match=r"'model\.0\.bias' holds NaN"):
        pth_to_hf(run.recipe, run.path, tmp_path / "hf")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a projector weight is missing", lambda state: state.pop("projector.model.0.bias")),
        ("no adapter", lambda state: [state.pop(n) for n in list(state) if n.startswith("llm.")]),
        ("a stranger", lambda state: state.update({"audio.weight": torch.ones(1)})),
        ("another width", lambda state: state.update({"projector.model.0.bias": torch.ones(32)})),
    ],
)
def test_a_checkpoint_that_contradicts_itself(name, change, train, tmp_path):
    run = train(llm={"lora": LORA})
    content = torch.load(run.path, weights_only=True)
    change(content["state_dict"])
    torch.save(content, run.path)
    with pytest.raises(CheckpointError, match=r"iter_7\.pth"):
        pth_to_hf(run.recipe, run.path, tmp_path / "hf")


@pytest.mark.parametrize(
    ("named", "told"), [("subprocess.Popen", "was not run"), ("vlmtool.utils.files.remove", "not a projector")]
)
def test_only_a_projector_class_is_called(train, tmp_path, named, told):
    run = train(llm={"lora": LORA})
    content = torch.load(run.path, weights_only=True)
    content["meta"]["recipe"]["projector"]["type"] = content["meta"]["projector"]["type"] = named
    torch.save(content, run.path)
    with pytest.raises(CheckpointError, match=told):
        pth_to_hf(None, run.path, tmp_path / "hf")


def test_an_error_in_the_middle_leaves_nothing(train, tmp_path, monkeypatch):
    run = train(llm={"lora": LORA})
    full = OSError("no space left on device")
    monkeypatch.setattr(export_vlmtool, "save_projector", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="no space"):
        pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]


def test_only_its_own_folder_is_replaced(train, tmp_path):
    run = train(llm={"lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "hf")
    pth_to_hf(run.recipe, run.path, folder)
    (folder / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    for target in (folder, other, run.path.parent, tmp_path, run.path, run.path / "below"):
        before = sorted(Path(target).rglob("*"))
        with pytest.raises(UsageError, match="SAVE_PATH"):
            pth_to_hf(run.recipe, run.path, target)
        assert sorted(Path(target).rglob("*")) == before
