"""LLaVA's own layout: one folder with the language model, the projector, and the image encoder if it was trained."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from vlmtool.convert.export import check_clip, check_mlp, check_named, check_one_encoder, export_of, not_held
from vlmtool.convert.layouts.early import below_vision_model, early_tokenizer
from vlmtool.convert.layouts.names import renamed
from vlmtool.convert.layouts.official import ACT, MODELS, PROJECTOR, VISION_ENCODER, model_config
from vlmtool.convert.parts import cast, copy_files, dtype_name, save_shards
from vlmtool.convert.source import Source
from vlmtool.convert.target import TOKENIZER_FILES
from vlmtool.convert.trained_views import trained_views
from vlmtool.convert.whole import Writing, whole_encoder, whole_llm
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.imports.vlm import find_vlm
from vlmtool.models.legacy.find import find_legacy
from vlmtool.models.legacy.load import GENERATION
from vlmtool.models.llm import read_llm_config
from vlmtool.models.manifest import Export
from vlmtool.utils.files import read_json_object, write_json

FORMAT = "official"


def write_official(source: Source, folder: Path, writing: Writing, facts: dict[str, Any]) -> Export:
    """Fill a new folder, every weight in the LLM's type, every adapter merged.

    Args:
        facts: of the manifest, beside the two parts.

    Raises:
        UsageError: LLaVA's code has no place for this model.
    """
    encoder = _checked(source)
    base, dtype = source.llm.folder, writing.dtype(source.llm)
    llm = whole_llm(source, dtype, folder)
    state = _without_copies(llm)
    state |= renamed(cast(source.state("projector"), dtype, str(source.checkpoint.path)), PROJECTOR)
    is_trained = not source.recipe.vision_encoder.is_frozen
    if is_trained:
        state |= renamed(below_vision_model(whole_encoder(source, dtype, folder).state_dict()), VISION_ENCODER)
    save_shards(state, folder, writing.max_shard_size)
    config = model_config(
        _llm_config(base, llm),
        encoder=source.vision_encoder.name,
        encoder_width=encoder.hidden_size,
        is_encoder_trained=is_trained,
        select_layer=encoder.reading.select_layer,
        keeps_cls=not encoder.num_dropped,
        depth=source.meta["projector"]["options"]["depth"],
        pad_to_square=source.recipe.data.pad_to_square,
        max_length=source.recipe.data.max_length,
        dtype=dtype_name(dtype),
    )
    write_json(folder / "config.json", config)
    _write_tokenizer(base, folder)
    inside = ("llm", "projector", *(["vision_encoder"] if is_trained else []))
    return export_of(source, FORMAT, facts, inside)


def _checked(source: Source) -> VisionEncoder:
    """The encoder, on the meta device, of a model that LLaVA's code can hold."""
    check_one_encoder(FORMAT, source.recipe)
    check_mlp(FORMAT, source.meta["projector"], act=ACT, bias=True)
    encoder, _ = trained_views(source)
    check_clip(FORMAT, encoder)
    check_named(FORMAT, "vision_encoder", source.vision_encoder)
    kind = read_llm_config(source.llm.folder, source.trust_remote_code).model_type
    if kind not in MODELS:
        raise not_held(FORMAT, f"a language model of type {kind}, only {', '.join(MODELS)}")
    return encoder


def _without_copies(llm: PreTrainedModel) -> dict[str, Tensor]:
    """The LLM's weights by their names; a head that is the embedding table is not written twice."""
    state = dict(llm.state_dict())
    if llm.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def _llm_config(base: Path, llm: PreTrainedModel) -> dict[str, Any]:
    """As its authors wrote it; of a checkpoint with code of its own, or inside a whole model, that of the class."""
    is_own = find_legacy(base) is None and find_vlm(base) is None
    said = read_json_object(base / "config.json") if is_own else llm.config.to_dict()
    return {key: value for key, value in said.items() if key not in ("_name_or_path", "transformers_version")}


def _write_tokenizer(base: Path, folder: Path) -> None:
    """The LLM's own, which needs no image tag: LLaVA's code puts pictures in by a number that no token has."""
    if find_legacy(base) is not None:
        load_tokenizer(base).save_pretrained(folder)
        file = folder / "tokenizer_config.json"
        write_json(file, early_tokenizer(read_json_object(file)))
    else:
        copy_files(base, folder, TOKENIZER_FILES)
    if (base / GENERATION).is_file():
        shutil.copyfile(base / GENERATION, folder / GENERATION)
