"""Adapters on a part, through peft, which takes a second to import: models without adapters go without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from transformers import PreTrainedModel

from vlmtool.utils.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from vlmtool.models.encoders.vision import VisionEncoder

ADAPTER = "default"  # peft's name of the one adapter a part has
PREFIX_WEIGHT = f"prompt_encoder.{ADAPTER}.embedding.weight"  # (tokens, layers * 2 * KV width), the one of a prefix
# Ends of peft's names in a model and in its files, where more than the adapter's name is left out.
_SHORT_ENDS = {f".lora_magnitude_vector.{ADAPTER}.weight": ".lora_magnitude_vector", PREFIX_WEIGHT: "prompt_embeddings"}


class LoraSettings(Protocol):
    """What a recipe's `lora` section says."""

    @property
    def r(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def dropout(self) -> float: ...
    @property
    def target_modules(self) -> tuple[str, ...]: ...
    @property
    def dora(self) -> bool: ...
    @property
    def rslora(self) -> bool: ...


def add_llm_lora(llm: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Adapters on the LLM's linear layers, the output head aside."""
    from peft import get_peft_model

    modules = linear_layer_names(llm, lora.target_modules)
    return get_peft_model(llm, _config(lora, modules, task_type="CAUSAL_LM"))


def add_encoder_lora(encoder: VisionEncoder, lora: LoraSettings) -> None:
    """Adapters on the linear layers of the encoder's blocks, in place."""
    from peft import get_peft_model

    modules = linear_layer_names(encoder.model, lora.target_modules)
    encoder.model = get_peft_model(encoder.model, _config(lora, modules, layers=encoder.num_blocks))


def _config(
    lora: LoraSettings, modules: list[str], task_type: str | None = None, layers: int | None = None
) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        # Named, so that the adapter also fits the whole encoder, whose upper blocks were not kept here.
        layers_to_transform=list(range(layers)) if layers is not None else None,
        bias="none",
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        task_type=task_type,
    )


def linear_layer_names(model: PreTrainedModel, wanted: tuple[str, ...] = ()) -> list[str]:
    """Last names of the model's linear layers inside its blocks (`q_proj`, `fc1`, …), sorted; or `wanted`, checked.

    Raises:
        RecipeError: a wanted name is no linear layer of this model.
    """
    head = model.get_output_embeddings()
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    in_blocks = {id(m): name.rpartition(".")[2] for block in blocks for name, m in block.named_modules()}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    names = {in_blocks[id(m)] for m in linear if id(m) in in_blocks}
    for name in wanted:
        if name not in names:
            raise RecipeError(
                f"lora.target_modules: '{name}' is no linear layer of {type(model).__name__}."
                f"{did_you_mean(name, names)}\n"
                f"It has {', '.join(sorted(names))}."
            )
    return sorted(wanted or names)


def adapter_config(part: nn.Module) -> dict[str, Any] | None:
    """A part's adapter settings as plain values, as `adapter_config.json` has them; None without an adapter."""
    from peft import PeftModel

    if not isinstance(part, PeftModel):
        return None
    values = part.peft_config[ADAPTER].to_dict()
    if "target_modules" in values:
        values["target_modules"] = sorted(values["target_modules"])
    values["inference_mode"] = True
    return {key: getattr(value, "value", value) for key, value in values.items()}


def is_weight_of(adapter: str, name: str) -> bool:
    """Whether a weight, by its name in the part, is of an adapter: "lora" (and its kinds) or "prefix"."""
    return name == PREFIX_WEIGHT if adapter == "prefix" else ".lora_" in name


def name_in_file(name: str) -> str:
    """peft's name of an adapter's weight in its files: `….lora_A.default.weight` → `….lora_A.weight`."""
    for long, short in _SHORT_ENDS.items():
        if name.endswith(long):
            return name.removesuffix(long) + short
    return name.replace(f".{ADAPTER}.", ".")


def name_in_model(name: str) -> str:
    """The inverse of `name_in_file`."""
    for long, short in _SHORT_ENDS.items():
        if name.endswith(short):
            return name.removesuffix(short) + long
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{ADAPTER}.{leaf}"
