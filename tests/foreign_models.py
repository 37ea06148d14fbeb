"""Tiny models as other tools write them: made by transformers' classes, and renamed by tables of names."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    OPTConfig,
    PreTrainedModel,
    SiglipVisionConfig,
)

from tests.standins import SPECIAL, make_clip, make_tokenizer

SIDE, PATCH = 32, 16  # px: 4 patches
WIDTH = 64
IMAGE_ID = len(SPECIAL)
PINPOINTS = [[32, 64], [32, 96], [64, 64]]  # px, height and width
# As the processors of LLaVA have it: images first, then text.
TYPED_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAVA_NAMES = (
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model."),
    (r"vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"image_newline$", "model.image_newline"),
)
TRANSFORMERS_5 = (
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model.language_model."),
    (r"(?=vision_tower\.|multi_modal_projector\.|image_newline)", "model."),
)
OLD_TOWER = ((r"vision_tower\.", "vision_tower.vision_model."),)


@dataclass(frozen=True)
class Reference:
    """A model of transformers, and the folder that holds it."""

    model: PreTrainedModel
    folder: Path

    def state(self) -> dict[str, Tensor]:
        """Weights as the folder holds them."""
        return load_file(self.folder / "model.safetensors")


def make_hf_llava(
    folder: Path, seed: int = 0, tiled: bool = False, siglip: bool = False, strategy: str = "default",
    tied: bool = False, **options: Any,
) -> Reference:  # fmt: skip
    """`LlavaForConditionalGeneration`, or LLaVA-NeXT's class where `tiled`, with tokenizer, template and processor."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip
    vision = SiglipVisionConfig(**sizes) if siglip else CLIPVisionConfig(**sizes, initializer_factor=2.0)
    text = LlamaConfig(
        vocab_size=384, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
        pad_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    config, cls = LlavaConfig, LlavaForConditionalGeneration
    if tiled:
        config, cls = LlavaNextConfig, LlavaNextForConditionalGeneration
        options = {"image_grid_pinpoints": PINPOINTS, **options}
    model = cls(
        config(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE_ID,
            vision_feature_select_strategy=strategy,
            **options,
        )  # fmt: skip
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "multi_modal_projector" in name:  # transformers begins with values so small that images hardly count
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer([*SPECIAL, "<image>"])
    tokenizer.chat_template = TYPED_TEMPLATE
    tokenizer.save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    edges = {"size": {"shortest_edge": SIDE}, "crop_size": crop}
    if tiled:
        LlavaNextImageProcessorPil(**edges, image_grid_pinpoints=PINPOINTS).save_pretrained(folder)
    else:
        CLIPImageProcessorPil(**edges).save_pretrained(folder)
    return Reference(model, folder)


def renamed(state: Mapping[str, Tensor], table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The weights by other names; those that no line of the table meets keep theirs."""
    result = {}
    for name, value in state.items():
        line = next(((old, new) for old, new in table if re.match(old, name)), None)
        result[re.sub(f"^(?:{line[0]})", line[1], name) if line else name] = value
    return result


def rename_folder(folder: Path, table: tuple[tuple[str, str], ...], shards: int = 1) -> None:
    """Write the weights of a folder anew, by other names and in several files."""
    state = renamed(load_file(folder / "model.safetensors"), table)
    write_weights(folder, state, shards)


def write_weights(folder: Path, state: Mapping[str, Tensor], shards: int = 1) -> None:
    """One safetensors file, or several with an index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    if shards == 1:
        save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    files = {name: f"model-{number % shards + 1:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: state[n] for n in names if files[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def make_llava_layout(
    folder: Path, reference: Reference, tower: Path, own_tower: bool = False, model_type: str = "llava_llama",
    pickled: bool = False, **said: Any,
) -> Path:  # fmt: skip
    """The same model in LLaVA's own layout: `pytorch_model.bin` or safetensors, a flat config.json, no template.

    Args:
        tower: folder of the encoder, which config.json names.
        own_tower: the model's own encoder is among the weights, as where it was tuned.
    """
    folder.mkdir(parents=True)
    text = reference.model.config.text_config.to_dict()
    kept = {key: value for key, value in text.items() if key != "rope_parameters"}
    config = {
        **kept, "rope_theta": 10000.0, "model_type": model_type, "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": str(tower), "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": WIDTH,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "square", "use_mm_proj": True, **said,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    state = renamed(reference.state(), LLAVA_NAMES)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # of old checkpoints
    if not own_tower:
        state = {name: value for name, value in state.items() if not name.startswith("model.vision_tower.")}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        write_weights(folder, state, shards=2)
    tokenizer = make_tokenizer([*SPECIAL, "<image>"])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def write_tower(folder: Path, reference: Reference, foreign: bool = False) -> Path:
    """The encoder of a model as a folder of its own; `foreign`: another one of the same shape."""
    make_clip(folder, seed=99)
    if not foreign:
        prefix = "vision_tower."
        own = {n.removeprefix(prefix): v for n, v in reference.state().items() if n.startswith(prefix)}
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **reference.model.config.vision_config.to_dict()}))
        write_weights(folder, own)
    return folder


def make_blip2(folder: Path, llm_width: int = 32) -> Blip2ForConditionalGeneration:
    """A BLIP-2 of transformers with an OPT."""
    torch.manual_seed(3)
    shared = {"intermediate_size": 128, "num_attention_heads": 4}
    text = OPTConfig(
        vocab_size=100, hidden_size=llm_width, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=llm_width, max_position_embeddings=64,
    )  # fmt: skip
    config = Blip2Config(
        vision_config={"hidden_size": WIDTH, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH, **shared},
        qformer_config={
            "hidden_size": WIDTH, "num_hidden_layers": 4, "encoder_hidden_size": WIDTH, "vocab_size": 100, **shared,
        },
        text_config=text.to_dict(), num_query_tokens=5,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in (
            *model.qformer.parameters(),
            model.query_tokens,
            *model.vision_model.post_layernorm.parameters(),
        ):
            weight.add_(torch.randn_like(weight), alpha=0.1)  # biases and norms too
    model.save_pretrained(folder)
    return model


def picture(size: tuple[int, int], seed: int = 0) -> PILImage.Image:
    """Random colours in blocks of 8 pixels."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, ((size[1] + 7) // 8, (size[0] + 7) // 8, 3), generator=draw, dtype=torch.uint8)
    return PILImage.fromarray(blocks.numpy(), "RGB").resize(size, PILImage.Resampling.NEAREST)
