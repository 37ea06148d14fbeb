"""`--save-format official`: LLaVA's names, keys and shapes, and its language model as transformers loads it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM, Qwen2ForCausalLM

from tests.convert.conftest import LORA, Train, features, input_ids, logits, pixels
from tests.part_library import PartLibrary
from vlmtool.convert.layouts.early import early_words
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.models.manifest import read_lineage, read_manifest
from vlmtool.utils.errors import UsageError

CLOSE = {"rtol": 0.0, "atol": 1e-4}  # float32, sums in another order
TOWER = "model.vision_tower.vision_tower."


def exported(run, tmp_path: Path, **options) -> Path:
    return pth_to_hf(run.recipe, run.path, tmp_path / "export", "official", **options)


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_names_keys_and_shapes(train: Train, standins, tmp_path):
    run = train(llm={"lora": LORA})
    folder = exported(run, tmp_path)
    state, base = load_file(folder / "model.safetensors"), load_file(standins.llama / "model.safetensors")
    projector = {
        f"model.mm_projector.{n.removeprefix('model.')}": v for n, v in run.model.projector.state_dict().items()
    }
    wanted = {**base, **projector}
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in wanted.items()}
    assert sorted(projector) == [
        "model.mm_projector.0.bias", "model.mm_projector.0.weight",
        "model.mm_projector.2.bias", "model.mm_projector.2.weight",
    ]  # fmt: skip
    for name, value in projector.items():
        assert torch.equal(state[name], value)
    said = config_of(folder)
    added = {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "torch_dtype": "float32",
        "use_mm_proj": True, "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 64,
        "mm_vision_tower": str(standins.clip), "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "unfreeze_mm_vision_tower": False,
        "tune_mm_mlp_adapter": False, "freeze_mm_mlp_adapter": False, "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 2048, "tokenizer_padding_side": "right", "rope_theta": 10000.0,
    }  # fmt: skip
    assert {key: said[key] for key in added} == added
    llm = config_of(standins.llama)
    same = llm.keys() - added.keys() - {"dtype", "rope_parameters", "transformers_version"}
    assert {key: said[key] for key in same} == {key: llm[key] for key in same}
    assert set(said) == same | added.keys()
    assert len(AutoTokenizer.from_pretrained(folder)) == 384  # no image tag
    assert read_manifest(folder) is None and read_lineage(folder).layout == "official"


def test_the_language_model_is_merged(train: Train, tmp_path):
    run = train(llm={"lora": LORA})
    folder = exported(run, tmp_path, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    llm, loading = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    torch.testing.assert_close(logits(llm), logits(run.model.llm), **CLOSE)


@pytest.mark.parametrize("how", [{"lora": LORA}, {"freeze": False}])
def test_a_trained_encoder_is_in_the_folder(how, train: Train, standins, tmp_path):
    run = train(vision_encoder={**how, "select_layer": -1, "select_strategy": "full"}, projector={"depth": 3})
    folder = exported(run, tmp_path)
    said, state = config_of(folder), load_file(folder / "model.safetensors")
    assert (said["unfreeze_mm_vision_tower"], said["mm_projector_type"]) == (True, "mlp3x_gelu")
    assert (said["mm_vision_select_layer"], said["mm_vision_select_feature"]) == (-1, "cls_patch")
    tower = {name.removeprefix(TOWER): value for name, value in state.items() if name.startswith(TOWER)}
    assert tower and all(name.startswith("vision_model.") for name in tower)
    encoder = CLIPVisionModel.from_pretrained(
        None, config=CLIPVisionConfig.from_pretrained(standins.clip), state_dict=tower
    )
    with torch.no_grad():
        found = encoder(pixels().values, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(found, run.model.vision_encoder(pixels())[0], **CLOSE)
    assert not torch.allclose(features(encoder), features(CLIPVisionModel.from_pretrained(standins.clip)), atol=1e-2)


def test_other_language_models(train: Train, tmp_path):
    parts = PartLibrary(tmp_path / "parts")
    run = train(llm={"path": parts.llm("Qwen/Qwen2.5-0.5B-Instruct"), "template": "qwen_chat", "lora": LORA})
    folder = exported(run, tmp_path)
    assert config_of(folder)["model_type"] == "llava_qwen"
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")  # tied
    torch.testing.assert_close(logits(Qwen2ForCausalLM.from_pretrained(folder)), logits(run.model.llm), **CLOSE)

    legacy = parts.llm("internlm/internlm2-chat-7b")
    run = train(llm={"path": legacy, "template": "internlm2_chat", "lora": LORA})
    folder = exported(run, tmp_path)
    assert config_of(folder)["model_type"] == "llava_llama"
    torch.testing.assert_close(logits(LlamaForCausalLM.from_pretrained(folder)), logits(run.model.llm), **CLOSE)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast" and not list(folder.glob("*.py"))
    with torch.no_grad():
        assert run.model.llm(input_ids()).logits.shape[-1] == config_of(folder)["vocab_size"]


def test_what_its_code_cannot_hold(train: Train, standins, tmp_path):
    parts = PartLibrary(tmp_path / "parts")
    phi3 = parts.llm("microsoft/Phi-3-mini-4k-instruct")
    changes = {
        "a SiglipVisionModel": {"vision_encoder": {"path": str(standins.siglip)}},
        "type phi3, only llama": {"llm": {"path": phi3, "template": "phi3_chat"}},
        "hidden_act silu": {"projector": {"hidden_act": "silu"}},
        "without bias": {"projector": {"bias": False}},
        "tiles": {"vision_encoder": {"tiles": ((1, 2),)}, "data": {"path": "x.json"}},
    }
    for told, change in changes.items():
        with pytest.raises(UsageError, match=f"official cannot hold .*{told}"):
            exported(train(**change), tmp_path)
        assert not (tmp_path / "export").exists()


def test_scaled_rope_in_early_words():
    config = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "dtype": "bfloat16"}
    assert early_words(config, "float16") == {
        "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16",
    }  # fmt: skip
    part = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}}
    assert early_words(part, "float16") == {
        "rope_theta": 1e4, "partial_rotary_factor": 0.4, "torch_dtype": "float16",
    }  # fmt: skip
    by_layer = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    assert early_words(by_layer, "float16") == {**by_layer, "torch_dtype": "float16"}
    early = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert early_words(early, "float16") == {**early, "torch_dtype": "float16"}
