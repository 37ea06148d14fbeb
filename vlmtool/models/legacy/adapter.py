"""Adapters trained on the fused modules of a legacy class, as adapters of its native class: exactly the same update.

A LoRA adds B A to a weight. Rows of the sum are rows of B, so the adapter of a native module has the same A and its
rows of B. Source: LoRA, https://arxiv.org/abs/2106.09685, section 4.1.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor
from transformers import PreTrainedConfig

from vlmtool.models.legacy.find import MAPS
from vlmtool.models.legacy.map import LegacyMap, Modules, Rows, native_parts, split_rows
from vlmtool.models.lora import is_weight_of, name_in_file, name_in_model
from vlmtool.utils.errors import CheckpointError

_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")  # of peft, in its files


def fused_map(names: Iterable[str], config: PreTrainedConfig) -> LegacyMap | None:
    """The map of the legacy class whose modules an adapter is for, where `config` is of its native class.

    Args:
        names: of the adapter's weights.
    """
    modules = {found[1] for name in names if (found := _NAME.fullmatch(name))}
    for legacy in MAPS:
        if legacy.model.config_class is type(config):
            table = legacy.modules(config)
            if any(native_parts(table, name) not in (None, {name: None}) for name in modules):
                return legacy
    return None


def native_adapter(state: Mapping[str, Tensor], config: PreTrainedConfig, where: Path) -> dict[str, Tensor] | None:
    """An adapter's weights, by peft's names in a model, for the native class; None where they are not of fused modules.

    Args:
        config: of the native model.
        where: what holds them, for the error.

    Raises:
        CheckpointError: a module has no place in the legacy class.
    """
    weights = {name_in_file(name): value for name, value in state.items() if is_weight_of("lora", name)}
    legacy = fused_map(weights, config)
    if legacy is None:
        return None
    others = {name: value for name, value in state.items() if not is_weight_of("lora", name)}
    _, split = split_adapter(legacy, config, LoraConfig(), weights, where)
    return others | {name_in_model(name): value for name, value in split.items()}


def split_adapter(
    legacy: LegacyMap, config: PreTrainedConfig, settings: LoraConfig, weights: Mapping[str, Tensor], where: Path
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and weights of the same adapter for the native class.

    Args:
        config: of the native model.
        settings, weights: of the adapter, by the legacy names; weights A (r, in) and B (out, r).
        where: the adapter's folder, for the error.

    Raises:
        CheckpointError: it trains more than low-rank updates, or modules that the legacy class has not.
    """
    if settings.modules_to_save or settings.use_dora or settings.bias != "none":
        raise CheckpointError(
            f"{where}: an adapter of {legacy.name} with modules_to_save, use_dora or bias has no native form.\n"
            "Merge it with the tool that trained it, and convert the merged model: vlmtool convert native."
        )
    table = legacy.modules(config)
    result: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, value in weights.items():
        module, side, parts = _parts(legacy, table, name, where)
        split = dict.fromkeys(parts, value) if side == "A" else split_rows(value, parts, f"{where}: '{name}'")
        alpha = settings.alpha_pattern.get(get_pattern_key(list(settings.alpha_pattern), module), settings.lora_alpha)
        for native, part in split.items():
            result[f"base_model.model.{native}.lora_{side}.weight"] = part.contiguous()
            ranks[native] = value.shape[0] if side == "A" else value.shape[1]
            alphas[native] = alpha
    return _native_settings(settings, ranks, alphas), result


def _parts(legacy: LegacyMap, table: Modules, name: str, where: Path) -> tuple[str, str, dict[str, Rows]]:
    """The legacy module of a weight, "A" or "B", and where its rows go."""
    found = _NAME.fullmatch(name)
    parts = native_parts(table, found[1]) if found else None
    if found is None or parts is None:
        raise CheckpointError(
            f"{where}: {legacy.name} has no place for the adapter's weight '{name}'.\nIt was trained on another part."
        )
    return found[1], found[2], parts


def _native_settings(settings: LoraConfig, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> LoraConfig:
    """The settings with every module by its whole name, so that none of another layer is meant."""
    native = deepcopy(settings)
    native.target_modules = set(ranks)
    native.exclude_modules = native.layers_to_transform = native.layers_pattern = None
    native.rank_pattern = {re.escape(name): r for name, r in ranks.items() if r != settings.r}
    native.alpha_pattern = {re.escape(name): a for name, a in alphas.items() if a != settings.lora_alpha}
    return native
