"""Start from what another tool wrote: XTuner's checkpoints and folders, LLaVA models and projectors, BLIP-2."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.fingerprint import foreign_hash
from vlmtool.models.imports.blip2 import hf_options
from vlmtool.models.imports.fit import Fitted, ImportReport, fit, report_of
from vlmtool.models.imports.kind import Kind
from vlmtool.models.imports.llava import partial_reading
from vlmtool.models.imports.projector import config_beside
from vlmtool.models.imports.projectors import ROW_END
from vlmtool.models.imports.read import Foreign
from vlmtool.models.imports.vlm import find_vlm
from vlmtool.models.imports.xtuner import ADAPTERS
from vlmtool.models.legacy.adapter import native_adapter
from vlmtool.models.lineage import Guard, Setup, check_setup, read_projector_config
from vlmtool.models.lora import ADAPTER
from vlmtool.models.manifest import read_lineage
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.models.weights import load_weights, saved_names
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object

_QFORMERS = (Kind.BLIP2, Kind.LAVIS)
_LAST_LAYER = "projector.language_projection."
_MAY_BE_FRESH = (f"projector.{ROW_END}", "projector.ln_vision.", "projector.query_tokens", _LAST_LAYER)


def load_foreign(
    model: VisionLanguageModel, setup: Setup, source: Foreign, guard: Guard
) -> tuple[list[str], dict[str, Any], ImportReport]:
    """Put what fits of a foreign source into the model: its projector, adapters, and parts that are trained whole.

    Args:
        setup: of this run; what is known of the source must agree with it.

    Returns:
        Names of the weights that were loaded, the entry of the source in the list of parents, and what became of every
        weight.

    Raises:
        CheckpointError: the source is damaged, has weights that have no place in this model, or is another model.
    """
    where = str(source.path)
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    tied = model.state_dict().keys() - own
    sha256 = foreign_hash(source.path)
    kept = {part: _why_kept(setup, part, sha256, source.kind) for part in _not_whole(model)}
    fitted = _fitting(fit(source, own, tied, kept), model, source)
    check_setup(_setup_of(source, fitted, setup, model), setup, where, guard)
    _check_alpha(source, model, guard)
    state = _native(fitted, model, source.path)
    report = load_weights(model, state, where, saved_names(model))
    told = report_of(source, fitted, report.fresh)
    _check_projector(told, source)
    entry = {"checkpoint": where, "sha256": sha256, "name": source.path.name, "kind": str(source.kind), "stage": {}}
    return report.loaded, entry, told


def _fitting(fitted: Fitted, model: VisionLanguageModel, source: Foreign) -> Fitted:
    """Without the last layer of a Q-Former where it leads to the width of another language model."""
    own = dict(model.named_parameters())
    found = {ours: theirs for theirs, ours in fitted.names.items() if ours.startswith(_LAST_LAYER) and ours in own}
    if source.kind not in _QFORMERS or all(fitted.state[ours].shape == own[ours].shape for ours in found):
        return fitted
    reason = "the last layer leads to a language model of another width"
    return replace(
        fitted,
        state={name: value for name, value in fitted.state.items() if name not in found},
        names={theirs: ours for theirs, ours in fitted.names.items() if ours not in found},
        left=fitted.left | {reason: list(found.values())},
    )


def _not_whole(model: VisionLanguageModel) -> list[str]:
    """Parts whose own weights this run does not train."""
    parts: dict[str, nn.Module] = {"llm": model.llm, "vision_encoder": model.vision_encoder}
    return [name for name, part in parts.items() if not all(weight.requires_grad for weight in part.parameters())]


def _why_kept(setup: Setup, part: str, sha256: str, kind: Kind) -> str:
    path, identity = setup.parts[part]
    if identity.weights == sha256:
        return f"the recipe's {part} is this very folder"
    serves = kind is Kind.HF_LLAVA or (kind is Kind.LLAVA and part == "llm")
    hint = f" (to use this one, name the folder as {part}.path)" if serves else ""
    return f"the recipe does not train the whole {part}, so it stays '{path}'{hint}"


def _setup_of(source: Foreign, fitted: Fitted, now: Setup, model: VisionLanguageModel) -> Setup:
    """How the source was put together, as far as it says; of the rest what this run has."""
    return Setup(
        parts={},
        template=(None, ""),
        projector=_projector_config(source, fitted, now.projector),
        reading=_same_words(_reading_of(source), now.reading, model.vision_encoder.encoders[0]),
        pad_to_square=now.pad_to_square,
        trains=frozenset({"projector"}),
    )


def _same_words(before: Reading | None, now: Reading, encoder: VisionEncoder) -> Reading:
    """How the source reads its encoder, in this run's words where both mean the same."""
    if before is None:
        return now
    prefix, top = encoder.num_prefix_tokens(encoder.model.config), encoder.model.config.num_hidden_layers + 1
    dropped = {"full": 0, "patch": 1, "auto": prefix}
    same_layer = before.select_layer % top == now.select_layer % top
    same_tokens = dropped[before.select_strategy] == dropped[now.select_strategy]
    return replace(
        now,
        select_layer=now.select_layer if same_layer else before.select_layer,
        select_strategy=now.select_strategy if same_tokens else before.select_strategy,
    )


def _reading_of(source: Foreign) -> Reading | None:
    """How its encoder is read, as far as it says."""
    if (vlm := find_vlm(source.path)) is not None:
        return vlm.facts.reading
    if source.kind is Kind.XTUNER_FOLDER and (trained := read_lineage(source.path)) is not None:
        return Reading.of(trained.vision_encoder)
    said = config_beside(source.path) if source.kind is Kind.LLAVA_PROJECTOR else {}
    return partial_reading(said, source.path) if said else None


def _projector_config(source: Foreign, fitted: Fitted, now: Mapping[str, Any]) -> dict[str, Any]:
    """Type, widths and options of the source's projector; what it does not tell is as in this run."""
    found = fitted.projector
    if found is None:
        return {}
    if _is_one_layer(found.type, found.options) and _is_one_layer(str(now.get("type")), now.get("options", {})):
        return {**now, "vision_hidden_size": found.widths[0], "llm_hidden_size": found.widths[1]}
    same = found.type == now.get("type")
    vision, llm = found.widths
    return {
        **now,
        "type": found.type,
        "vision_hidden_size": vision or now.get("vision_hidden_size"),
        "llm_hidden_size": now.get("llm_hidden_size") if source.kind in _QFORMERS else llm,
        "options": {**(now.get("options", {}) if same else {}), **found.options, **_said_options(source)},
    }


def _is_one_layer(type_name: str, options: Mapping[str, Any]) -> bool:
    """One linear layer, under either of the names that it has here."""
    return type_name.endswith(".LinearProjector") or (type_name.endswith(".MLPProjector") and options.get("depth") == 1)


def _said_options(source: Foreign) -> dict[str, Any]:
    """Arguments of the projector's class that the source's config says."""
    if source.kind is Kind.XTUNER_FOLDER:
        return dict(read_projector_config(source.path / "projector")["options"] or {})
    if source.kind is Kind.BLIP2:
        return hf_options(config_beside(source.path)) if source.path.is_dir() else {}
    vlm = find_vlm(source.path)
    return vlm.facts.projector_options if vlm is not None else {}


def _check_alpha(source: Foreign, model: VisionLanguageModel, guard: Guard) -> None:
    """An adapter's weights are scaled by what stands in its settings alone: alpha, and by which power of the rank."""
    if source.kind is not Kind.XTUNER_FOLDER:
        return
    parts: dict[str, Any] = {"llm": model.llm, "vision_encoder": model.vision_encoder.encoders[0].model}
    for part, folder in zip(parts, ADAPTERS, strict=True):
        settings = getattr(parts[part], "peft_config", None)
        if settings is None or not (source.path / folder).is_dir():
            continue
        said = read_json_object(source.path / folder / "adapter_config.json")
        for key, name in (("lora_alpha", "alpha"), ("use_rslora", "rslora")):
            then, now = said.get(key) or False, getattr(settings[ADAPTER], key, False)
            if then != now:
                guard.refuse(
                    f"{source.path / folder} was trained with {name} {then}; this recipe has {part}.lora.{name} {now}.",
                    f"Set {part}.lora.{name}={then}.",
                )
        if said.get("alpha_pattern"):
            guard.refuse(
                f"{source.path / folder} was trained with an alpha for each layer; a recipe has one for all.",
                "Merge it into its base, and start from that.",
            )


def _native(fitted: Fitted, model: VisionLanguageModel, where: Path) -> dict[str, Tensor]:
    """The weights with adapters of a legacy class's fused modules as those of its native class, which the model is."""
    llm = {name.removeprefix("llm."): value for name, value in fitted.state.items() if name.startswith("llm.")}
    base = model.llm.get_base_model() if hasattr(model.llm, "get_base_model") else model.llm
    split = native_adapter(llm, base.config, where) if isinstance(base, PreTrainedModel) else None
    if split is None:
        return fitted.state
    others = {name: value for name, value in fitted.state.items() if not name.startswith("llm.")}
    return others | {f"llm.{name}": value for name, value in split.items()}


def _check_projector(report: ImportReport, source: Foreign) -> None:
    """A projector that is there is there whole; the last layer of a Q-Former leads to another language model."""
    fresh = [name for name in report.fresh.get("projector", []) if not name.startswith(_MAY_BE_FRESH)]
    if fresh and report.taken.get("projector"):
        raise CheckpointError(
            f"{source.path}: has {len(fresh)} weights of the projector too few, first '{fresh[0]}'.\n"
            "Give the recipe the projector of this model."
        )
