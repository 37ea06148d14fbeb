"""What training a recipe keeps in memory, estimated from published shapes: no part has to be at hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vlmtool.recipe.parts import LLM, TunablePart
from vlmtool.recipe.published import ENCODERS, LLMS, EncoderShape, LLMShape
from vlmtool.recipe.schema import Recipe

FLOAT32 = 4  # bytes; trained weights, their gradients and both moments of Adam are kept in it
ADAM_STATES = 2
# bitsandbytes: half a byte and, for each 64 weights, a scale of one byte; or a byte (its scales, one a row, are few).
QUANTIZED = {"nf4": 0.5 + 1 / 64, "int8": 1.0}
HALF = 2  # bytes; what the language models are published in, the encoders in float32
TRAINED = FLOAT32 * (2 + ADAM_STATES)  # bytes: the weight, its gradient, the optimiser


def estimated_gb(recipe: Recipe) -> float | None:
    """1e9 bytes in each process, without DeepSpeed: weights, gradients and Adam; activations come on top.

    Returns:
        None where the shape of a part or the class of the projector is not known here.
    """
    llm, encoder = LLMS.get(recipe.llm.path), ENCODERS.get(recipe.vision_encoder.path)
    count = PROJECTORS.get(recipe.projector.type.rpartition(".")[2])
    if llm is None or encoder is None or count is None:
        return None
    section, width, total = recipe.vision_encoder, encoder.hidden, 0.0
    if section.beside is not None:
        second = ENCODERS.get(section.beside.path)
        if second is None:
            return None
        width += second.hidden
        total += _weights(_up_to(second, section.beside.select_layer)) * FLOAT32
    on_gpu = recipe.planned is None or recipe.planned.gpus > 0
    projector = count(width, llm.hidden, recipe.projector.options)
    total += projector * (FLOAT32 if recipe.projector.freeze else TRAINED)
    total += _llm_bytes(recipe.llm, llm, HALF if on_gpu else FLOAT32)
    total += _part_bytes(section, _up_to(encoder, section.select_layer), FLOAT32)
    return total / 1e9


def _up_to(encoder: EncoderShape, layer: int) -> EncoderShape:
    """Without the blocks after the layer that is read, which are not built."""
    return replace(encoder, layers=layer if layer >= 0 else encoder.layers + 1 + layer)


def _llm_bytes(part: LLM, shape: LLMShape, frozen: int) -> float:
    """As `_part_bytes`; linear layers may be quantised, but not the head."""
    saved = 0.0
    if part.quantization is not None:
        saved = shape.layers * _layer_weights(shape) * (frozen - QUANTIZED[part.quantization])
    return _part_bytes(part, shape, frozen) - saved


def _part_bytes(part: TunablePart, shape: LLMShape | EncoderShape, frozen: int) -> float:
    """The whole part trained, or frozen at so many bytes a weight with the adapter that is trained."""
    weights = _weights(shape)
    if part.is_fully_trained:
        return weights * TRAINED
    adapter = 0
    if part.lora is not None:
        names = part.lora.target_modules or tuple(shape.layer)
        sides = [sum(shape.layer[name]) for name in names if name in shape.layer]
        adapter = shape.layers * part.lora.r * sum(sides)
    return weights * frozen + adapter * TRAINED


def _weights(shape: LLMShape | EncoderShape) -> int:
    return shape.layers * _layer_weights(shape) + shape.other_weights


def _layer_weights(shape: LLMShape | EncoderShape) -> int:
    return sum(inputs * outputs for inputs, outputs in shape.layer.values())


def _mlp(vision: int, llm: int, options: Mapping[str, Any]) -> int:
    return vision * llm + (options.get("depth", 2) - 1) * llm * llm


def _xdp(vision: int, llm: int, options: Mapping[str, Any]) -> int:
    return options.get("factor", 4) * vision * llm + llm * llm


def _ldp(vision: int, llm: int, options: Mapping[str, Any]) -> int:
    squeeze_and_pointwise = llm * llm // 2 + llm * llm
    return vision * llm + llm * llm + 2 * squeeze_and_pointwise


def _pixel_shuffle(vision: int, llm: int, options: Mapping[str, Any]) -> int:
    return options.get("factor", 2) ** 2 * vision * llm + llm * llm


def _qformer(vision: int, llm: int, options: Mapping[str, Any]) -> int:
    """Twelve layers of BERT-base, every second one with cross attention, unless options say otherwise."""
    width, inner = options.get("hidden_size", 768), options.get("intermediate_size", 3072)
    layers, every = options.get("num_hidden_layers", 12), options.get("cross_attention_frequency", 2)
    own = layers * (4 * width * width + 2 * width * inner)
    return own + -(-layers // every) * 2 * width * (width + vision) + width * llm


# Weights by class, of the widths of encoder and LLM and the class's own arguments; biases and norms are too few.
PROJECTORS: dict[str, Callable[[int, int, Mapping[str, Any]], int]] = {
    "LDPProjector": _ldp,
    "LDPv2Projector": _mlp,
    "LinearProjector": lambda vision, llm, options: vision * llm,
    "MLPProjector": _mlp,
    "PixelShuffleProjector": _pixel_shuffle,
    "QFormerProjector": _qformer,
    "XDPProjector": _xdp,
}
