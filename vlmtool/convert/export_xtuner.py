"""XTuner's layout, which VLMEvalKit's LLaVA_XTuner reads beside the bases."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vlmtool.convert.export import check_clip, check_mlp, check_named, check_one_encoder, export_of, not_held
from vlmtool.convert.export_vlmtool import write_encoder, write_llm
from vlmtool.convert.layouts.early import below_vision_model, early_tokenizer, early_words
from vlmtool.convert.layouts.xtuner import CONFIG, PROJECTOR_FILES, config_text, projector_config
from vlmtool.convert.parts import cast, dtype_name
from vlmtool.convert.source import Source
from vlmtool.convert.trained_views import trained_views
from vlmtool.convert.whole import Writing
from vlmtool.models.folder import WEIGHTS
from vlmtool.models.manifest import Export, Part
from vlmtool.utils.files import read_json_object, write_json, write_text

FORMAT = "xtuner"
_CODE = Path(__file__).parent / "xtuner_projector"


def write_xtuner(source: Source, folder: Path, writing: Writing, facts: dict[str, Any]) -> Export:
    """Fill a new folder: adapters, or whole parts where every weight was trained, and the projector.

    Args:
        facts: of the manifest, beside the two parts.

    Raises:
        UsageError: XTuner's code has no place for this model.
    """
    check_one_encoder(FORMAT, source.recipe)
    check_mlp(FORMAT, source.meta["projector"])
    encoder, _ = trained_views(source)
    check_clip(FORMAT, encoder)
    for part, base in (("llm", source.llm), ("vision_encoder", source.vision_encoder)):
        if not getattr(source.recipe, part).is_fully_trained:
            check_named(FORMAT, part, base)
    if encoder.num_dropped != 1:
        raise not_held(FORMAT, "an encoder whose CLS token the projector reads (vision_encoder.select_strategy)")
    llm = _write_llm(source, folder, writing)
    vision_encoder = write_encoder(source, folder, writing, names=below_vision_model)
    _write_projector(source, folder / "projector", writing)
    values = dict(
        llm_name_or_path=source.llm.name,
        visual_encoder_name_or_path=source.vision_encoder.name,
        visual_select_layer=encoder.reading.select_layer,
        prompt_template=source.meta["template"]["name"],
        stop_words=list(source.meta["template"]["stop_words"]),
        pad_image_to_square=source.recipe.data.pad_to_square,
    )
    write_text(folder / CONFIG, config_text(values))
    return export_of(source, FORMAT, facts, llm=llm, vision_encoder=vision_encoder)


def _write_llm(source: Source, folder: Path, writing: Writing) -> Part:
    """Adapter or whole; a whole one with the words of the transformers that XTuner runs with."""
    entry = write_llm(source, folder, writing)
    if entry.weights is not None:
        config, tokenizer = (folder / entry.weights / name for name in ("config.json", "tokenizer_config.json"))
        dtype = dtype_name(writing.dtype(source.llm))
        write_json(config, early_words(read_json_object(config), dtype))
        write_json(tokenizer, early_tokenizer(read_json_object(tokenizer)))
    return entry


def _write_projector(source: Source, folder: Path, writing: Writing) -> None:
    """Weights, settings, and the two files of code that read them."""
    dtype = writing.dtype(source.llm)
    state = cast(source.state("projector"), dtype, str(source.checkpoint.path))
    folder.mkdir()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = projector_config(source.meta["projector"], dtype_name(dtype))
    write_json(folder / "config.json", config)
    for name in PROJECTOR_FILES:
        shutil.copyfile(_CODE / name, folder / name)
