"""Prefix tuning of a language model: learned keys and values before every prompt.

Source: https://arxiv.org/abs/2101.00190, section 4. The keys and values are learned as they are, without a network that
makes them (section 4.3); they take the first positions, and those of the prompt follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from transformers import DynamicCache, PreTrainedModel

from vlmtool.utils.errors import RecipeError

if TYPE_CHECKING:
    from peft import PeftModel


class PrefixSettings(Protocol):
    """What a recipe's `prefix` section says."""

    @property
    def num_tokens(self) -> int: ...


def add_prefix(llm: PreTrainedModel, prefix: PrefixSettings) -> PeftModel:
    """A prefix before every prompt of the LLM.

    Raises:
        RecipeError: the LLM keeps other things than keys and values of one shape.
    """
    from peft import PrefixTuningConfig, get_peft_model

    try:
        return get_peft_model(llm, PrefixTuningConfig(num_virtual_tokens=prefix.num_tokens, task_type="CAUSAL_LM"))
    except (ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(f"llm.prefix: {type(llm).__name__} takes no prefix: {reason}\nUse llm.lora.") from error


def prefix_length(llm: PreTrainedModel) -> int:
    """Positions that the LLM's prefix takes; 0 without one."""
    config = getattr(llm, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def without_prefix(llm: PreTrainedModel) -> PreTrainedModel:
    """What runs over a cache that `begin` filled: peft would put a prefix before each new token."""
    return llm.get_base_model() if prefix_length(llm) else llm


def begin(llm: PreTrainedModel, kv: DynamicCache, batch: int) -> None:
    """Fill an empty cache of `batch` rows with the LLM's prefix, where it has one."""
    if prefix_length(llm):
        for number, layer in enumerate(llm.get_prompt(batch).layers):
            kv.update(layer.keys, layer.values, number)
