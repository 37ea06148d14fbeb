"""Parts of a checkpoint as whole models: what was trained in its place in the base, adapters merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from vlmtool.convert.merge_weights import merged_model
from vlmtool.convert.parts import cast, save_adapter, stored_dtype
from vlmtool.convert.source import Base, Source, check_names
from vlmtool.models.build import load_encoder_weights
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import encoder_class
from vlmtool.models.legacy.load import GENERATION
from vlmtool.models.llm import check_llm_folder, load_llm, read_llm_config
from vlmtool.models.weights import load_weights
from vlmtool.recipe.parts import TunablePart
from vlmtool.utils.errors import CheckpointError


@dataclass(frozen=True)
class Writing:
    """How weights are written."""

    fp32: bool
    max_shard_size: str

    def dtype(self, base: Base) -> torch.dtype:
        """Of a part: its base's, unless float32 is asked for."""
        return torch.float32 if self.fp32 else stored_dtype(base.folder)


def whole_llm(source: Source, dtype: torch.dtype, work: Path) -> PreTrainedModel:
    """The LLM as it was trained, in `dtype`; an adapter of a quantised one is merged into the weights it came from.

    Args:
        work: folder for files that are needed in between.

    Raises:
        CheckpointError: the base or the checkpoint is damaged, or a merged weight is no finite number.
    """
    section, base = source.recipe.llm, source.llm
    if section.is_fully_trained:
        empty = filled_llm(base.folder, cast(source.state("llm"), dtype, str(source.checkpoint.path)), source)
        # What a model has beside its weights (rotary frequencies) is made on loading.
        llm = type(empty).from_pretrained(None, config=empty.config, state_dict=empty.state_dict(), dtype=dtype)
        if (base.folder / GENERATION).is_file():
            llm.generation_config = GenerationConfig.from_pretrained(base.folder)
        return llm.eval()
    llm = load_llm(base.folder, dtype, trust_remote_code=source.trust_remote_code)
    return _with_adapter(llm, section, "llm", source.state("llm"), source, work)


def whole_encoder(source: Source, dtype: torch.dtype, work: Path) -> PreTrainedModel:
    """The image encoder as it was trained, in `dtype`. Blocks above the selected layer are the base's.

    Args, Raises: as `whole_llm`.
    """
    section, base = source.recipe.vision_encoder, source.vision_encoder
    state = source.state("vision_encoder.model")
    encoder = load_encoder_weights(base.folder, dtype, section.type)
    if section.is_fully_trained:
        return filled_encoder(encoder, cast(state, dtype, str(source.checkpoint.path)), source)
    return _with_adapter(encoder, section, "vision_encoder", state, source, work)


def _with_adapter(
    model: PreTrainedModel, section: TunablePart, name: str, state: Mapping[str, Tensor], source: Source, work: Path
) -> PreTrainedModel:
    """`model` with its adapter, if it has one, merged in float32."""
    if section.adapter is None:
        return model
    with TemporaryDirectory(dir=work) as place:
        folder = Path(place) / "adapter"
        save_adapter(folder, source.meta["adapters"][name], cast(state, torch.float32, str(source.checkpoint.path)))
        return merged_model(model, folder).eval()


def filled_llm(base: Path, state: dict[str, Tensor], source: Source) -> PreTrainedModel:
    """The LLM's modules around the weights of the checkpoint; those of the base are not read."""
    path, trust = source.checkpoint.path, source.trust_remote_code
    check_llm_folder(base, trust)
    config = read_llm_config(base, trust)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config, dtype=next(iter(state.values())).dtype, trust_remote_code=trust)
    try:
        unknown = llm.load_state_dict(state, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:  # shapes
        raise CheckpointError(
            f"{path}: does not fit the LLM at {base}: {str(error).splitlines()[-1].strip()}"
        ) from error
    llm.tie_weights()
    missing = [name for name, weight in llm.named_parameters() if weight.is_meta]
    check_names(state, [*(name for name in state if name not in unknown), *missing], f"{path}: llm")
    return llm


def filled_encoder(encoder: PreTrainedModel, state: Mapping[str, Tensor], source: Source) -> PreTrainedModel:
    """The base's encoder with the weights of the checkpoint.

    Raises:
        CheckpointError: the weights are not those of the encoder up to the selected layer.
    """
    where = str(source.checkpoint.path)
    check_names(state, _trained_names(source), f"{where}: vision_encoder")
    load_weights(encoder, state, where)
    return encoder


def _trained_names(source: Source) -> list[str]:
    """Names of all weights of the encoder up to the selected layer; nothing is loaded."""
    base, section = source.vision_encoder.folder, source.recipe.vision_encoder
    cls = encoder_class(section.type)
    kept = cls(cls.empty_model(base), Reading.of(section)).model
    return [name for name, _ in kept.named_parameters()]
