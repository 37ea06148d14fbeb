"""Names as the tools publish them, each with the place that it has here."""

import pytest
import torch

from vlmtool.models.imports import blip2, hf_llava, llava, xtuner
from vlmtool.models.imports.kind import Kind, kind_of_content
from vlmtool.models.imports.names import UNKNOWN, Left, place
from vlmtool.models.imports.projectors import find_projector
from vlmtool.models.imports.read import RULES
from vlmtool.utils.errors import CheckpointError

# None: left, with a reason of its own.
PLACES = {
    "hf_llava": (hf_llava.RULES, {
        "language_model.model.layers.0.self_attn.q_proj.weight": "llm.model.layers.0.self_attn.q_proj.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight": "llm.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight": "llm.lm_head.weight",
        "lm_head.weight": "llm.lm_head.weight",
        "vision_tower.vision_model.pre_layrnorm.weight": "vision_encoder.model.vision_model.pre_layrnorm.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias": "vision_encoder.model.encoder.layers.0.mlp.fc1.bias",
        "multi_modal_projector.linear_1.bias": "projector.linear_1.bias",
        "model.multi_modal_projector.linear_2.weight": "projector.linear_2.weight",
        "image_newline": "projector.row_end",
        "model.image_newline": "projector.row_end",
        "vision_tower.vision_model.embeddings.position_ids": None,
    }),
    "llava": (llava.RULES, {
        "model.layers.0.self_attn.q_proj.weight": "llm.model.layers.0.self_attn.q_proj.weight",
        "model.embed_tokens.weight": "llm.model.embed_tokens.weight",
        "lm_head.weight": "llm.lm_head.weight",
        "model.mm_projector.0.weight": "projector.0.weight",
        "model.mm_projector.model.mb_block.1.block.0.0.weight": "projector.model.mb_block.1.block.0.0.weight",
        "model.image_newline": "projector.row_end",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.3.mlp.fc1.bias":
            "vision_encoder.model.vision_model.encoder.layers.3.mlp.fc1.bias",
        "model.layers.0.self_attn.rotary_emb.inv_freq": None,
    }),
    "mm_projector.bin": (llava.PROJECTOR_ONLY, {
        "model.mm_projector.2.bias": "projector.2.bias",
        "mm_projector.weight": "projector.weight",
        "base_model.model.model.mm_projector.0.weight": "projector.0.weight",
        "model.embed_tokens.weight": None,
    }),
    "xtuner": (xtuner.RULES, {
        "llm.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight":
            "llm.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight",
        "visual_encoder.base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_B.default.weight":
            "vision_encoder.model.base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_B.default.weight",
        "projector.model.0.weight": "projector.model.0.weight",
    }),
    "blip2": (blip2.HF_RULES, {
        "query_tokens": "projector.query_tokens",
        "qformer.layernorm.weight": "projector.qformer.layernorm.weight",
        "qformer.encoder.layer.10.crossattention.attention.key.bias":
            "projector.qformer.encoder.layer.10.crossattention.attention.key.bias",
        "qformer.encoder.layer.10.intermediate_query.dense.bias":
            "projector.qformer.encoder.layer.10.intermediate_query.dense.bias",
        "encoder.layer.0.output_query.dense.bias": "projector.qformer.encoder.layer.0.output_query.dense.bias",
        "layernorm.bias": "projector.qformer.layernorm.bias",
        "vision_model.post_layernorm.weight": "projector.ln_vision.weight",
        "language_projection.bias": "projector.language_projection.bias",
        "qformer.encoder.layer.0.intermediate.dense.weight": None,
        "qformer.encoder.layer.0.output.dense.weight": None,
        "vision_model.encoder.layers.0.mlp.fc1.weight": None,
        "language_model.model.decoder.embed_tokens.weight": None,
        "embeddings.word_embeddings.weight": None,
        "itm_head.weight": None,
    }),
    "lavis": (blip2.LAVIS_RULES, {
        "query_tokens": "projector.query_tokens",
        "Qformer.bert.embeddings.LayerNorm.weight": "projector.qformer.layernorm.weight",
        "Qformer.bert.encoder.layer.11.attention.self.query.weight":
            "projector.qformer.encoder.layer.11.attention.attention.query.weight",
        "Qformer.bert.encoder.layer.10.crossattention.self.key.bias":
            "projector.qformer.encoder.layer.10.crossattention.attention.key.bias",
        "Qformer.bert.encoder.layer.10.crossattention.output.LayerNorm.bias":
            "projector.qformer.encoder.layer.10.crossattention.output.LayerNorm.bias",
        "Qformer.bert.encoder.layer.3.attention.output.dense.weight":
            "projector.qformer.encoder.layer.3.attention.output.dense.weight",
        "Qformer.bert.encoder.layer.3.output_query.LayerNorm.weight":
            "projector.qformer.encoder.layer.3.output_query.LayerNorm.weight",
        "ln_vision.bias": "projector.ln_vision.bias",
        "opt_proj.weight": "projector.language_projection.weight",
        "llama_proj.bias": "projector.language_projection.bias",
        "Qformer.bert.embeddings.position_embeddings.weight": None,
        "Qformer.bert.embeddings.position_ids": None,
        "Qformer.bert.encoder.layer.3.intermediate.dense.weight": None,
        "Qformer.bert.encoder.layer.3.output.dense.weight": None,
        "Qformer.cls.predictions.bias": None,
        "visual_encoder.blocks.0.attn.qkv.weight": None,
        "vision_proj.weight": None,
        "temp": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "name", "wanted"),
    [(table, name, wanted) for table, names in PLACES.values() for name, wanted in names.items()],
)
def test_each_name_has_its_place(table, name, wanted):
    found = place(table, name)
    assert found == wanted if wanted else isinstance(found, Left) and found is not UNKNOWN


def test_a_name_of_nothing_that_is_known_is_told_from_those_left_on_purpose():
    assert all(place(table, "audio_tower.weight") is UNKNOWN for table in RULES.values())
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize(
    ("names", "said"),
    [(["queries", "layers.0.weight"], "'queries'"), (["0.weight", "odd.weight"], "'0.weight'"), ([], "no weights")],
)
def test_a_projector_of_another_kind_is_refused(names, said):
    with pytest.raises(CheckpointError, match=f"x.bin: its projector is none that vlmtool has: .*{said}"):
        find_projector(dict.fromkeys(names, (64, 64)), "x.bin")


def test_how_many_patches_an_xdp_joins_is_told_by_the_encoders_width():
    shapes = {"mlp.0.weight": (32, 256), "mlp.0.bias": (32,), "mlp.2.weight": (32, 32), "mlp.2.bias": (32,)}
    for width, factor in ((64, 4), (256, 1)):
        found = find_projector(shapes, "x", width)
        assert found.type.endswith("XDPProjector") and found.widths == (width, 32) and found.options["factor"] == factor
    assert find_projector(shapes, "x").widths == (None, 32)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"meta": {"format": 1}, "state_dict": {}}, None),
        ({"meta": {"epoch": 1}, "state_dict": {}}, Kind.XTUNER_CHECKPOINT),
        ({"model": {"Qformer.bert.x": 1}}, Kind.LAVIS),
        ({"Qformer.bert.x": 1}, Kind.LAVIS),
        ({"qformer.layernorm.bias": 1}, Kind.BLIP2),
        ({"model.mm_projector.0.bias": 1}, Kind.LLAVA_PROJECTOR),
        ({"x": torch.ones(1)}, None),
        ([1], None),
    ],
)
def test_a_file_is_known_by_what_it_holds(content, kind):
    assert kind_of_content(content) is kind
