"""What a map is: a legacy config.json as a native config, and legacy modules as native modules."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from vlmtool.models.legacy.settings import check_switches
from vlmtool.models.legacy.shards import read_tensors
from vlmtool.utils.errors import CheckpointError, message_lines
from vlmtool.utils.files import read_json_object

Rows = slice | Tensor | None
"""Output rows of a fused module that make a native one, a range or their numbers in order; None for all."""

Modules = Mapping[str, Mapping[str, Rows]]
"""{legacy module: {native module: rows}}, with `*` for the number of a layer."""

# What transformers raises of values that make no sense to it.
_ODD = (ValueError, TypeError, AttributeError, StrictDataclassError)
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class LegacyMap:
    """How the checkpoints of one architecture become those of a native class."""

    name: str
    model_types: tuple[str, ...]
    """`model_type` of their config.json."""
    model: type[PreTrainedModel]
    """The native class."""
    config: Callable[[Mapping[str, Any]], PreTrainedConfig]
    """The native config of a config.json; raises ValueError or KeyError for what has no native form."""
    modules: Callable[[PreTrainedConfig], Modules]
    """Where each module goes, by the native config's numbers of heads."""
    dead: tuple[str, ...] = ()
    """Tensors of the files that nothing reads: they are computed anew from the config."""

    def native_config(self, folder: Path) -> PreTrainedConfig:
        """The config of the native class for the checkpoint in `folder`.

        Raises:
            CheckpointError: config.json cannot be read, or asks for what the native class does not compute.
        """
        file = folder / "config.json"
        said = read_json_object(file)
        try:
            check_switches(said, {"quantization_config": None})
            config = self.config(said)
            _check_sizes(config)
        except KeyError as error:
            remedy = f"Take the config.json of the published {self.name}."
            raise CheckpointError(f"{file}: has no {error}.\n{remedy}") from error
        except (*_ODD, ZeroDivisionError) as error:
            reason = "\n".join(message_lines(error)[:2])  # transformers' own checks say more
            raise CheckpointError(f"{file}: {self.name}: {reason}") from error
        config.name_or_path = str(folder)
        config.architectures = [self.model.__name__]
        return config

    def native_state(self, folder: Path) -> dict[str, Tensor]:
        """The weights in `folder` by the names of the native class: every one of them, and nothing else.

        What is only renamed, or a range of rows, stays memory-mapped; rows in another order are copied.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor is unknown, missing or of another shape.
        """
        config = self.native_config(folder)
        modules = self.modules(config)
        state: dict[str, Tensor] = {}
        for name, tensor in read_tensors(folder):
            if starred(name) in self.dead:
                continue
            module, _, kind = name.rpartition(".")
            parts = native_parts(modules, module)
            if parts is None:
                raise CheckpointError(
                    f"{folder}: {self.name} has no place for the tensor '{name}'.\n"
                    "Its config.json or its weights are of another architecture: download the folder again."
                )
            for target, part in split_rows(tensor, parts, f"{folder}: '{name}'").items():
                state[f"{target}.{kind}"] = part
        return checked_state(self.model, config, state, folder)


def checked_state(
    cls: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """The weights, whose names and shapes are those of the native class; of tied ones that which is kept.

    Raises:
        CheckpointError: they are not.
    """
    try:
        with torch.device("meta"):
            model = cls(config)
    except (*_ODD, RuntimeError, KeyError, AssertionError) as error:
        reason = message_lines(error)[0]
        raise CheckpointError(f"{folder / 'config.json'}: gives no {cls.__name__}: {reason}") from error
    wanted = model.state_dict()
    tied = model.all_tied_weights_keys
    missing, unknown = sorted(set(wanted) - set(state) - set(tied)), sorted(set(state) - set(wanted))
    if missing or unknown:
        first = f"'{missing[0]}' is not there" if missing else f"'{unknown[0]}' has no place"
        raise CheckpointError(
            f"{folder}: {len(missing) + len(unknown)} weights are not those of its config.json, first {first} "
            f"(by {cls.__name__}'s names).\nThe folder is incomplete, or its config.json belongs to another "
            "checkpoint: download it again."
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise _wrong_shape(f"{folder}: '{name}'", tuple(value.shape), str(tuple(wanted[name].shape)))
        if (source := tied.get(name)) in state and not torch.equal(value, state[source]):
            raise CheckpointError(
                f"{folder}: '{name}' is not '{source}', but tie_word_embeddings in config.json says so.\n"
                "Set it to false: then both are used."
            )
    return {name: value for name, value in state.items() if name not in tied}  # .bin files hold tied ones twice


def _check_sizes(config: PreTrainedConfig) -> None:
    """Those that say which rows of a fused projection are whose."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if min(config.hidden_size, heads, groups) < 1 or heads % groups:
        raise ValueError(
            f"hidden size {config.hidden_size} with {heads} heads and {groups} key-value heads is no model."
        )


def starred(name: str) -> str:
    """A name with `*` for the number of its layer."""
    return _LAYER.sub(".*.", name, count=1)


def native_parts(modules: Modules, name: str) -> dict[str, Rows] | None:
    """The native modules that the legacy module `name` becomes, with their rows of it; None where it has no place."""
    found, layer = modules.get(starred(name)), _LAYER.search(name)
    if found is None:
        return None
    return {part.replace("*", layer[1]) if layer else part: rows for part, rows in found.items()}


def split_rows(tensor: Tensor, parts: Mapping[str, Rows], where: str) -> dict[str, Tensor]:
    """The rows of a fused weight (out, in) or bias (out) by native module.

    Raises:
        CheckpointError: the rows are not all there, or there are more; `where` begins the message.
    """
    try:
        result = {name: tensor if rows is None else tensor[rows] for name, rows in parts.items()}
    except IndexError as error:
        raise _wrong_shape(where, tuple(tensor.shape), "more rows") from error
    rows = sum(len(part) for part in result.values()) if tensor.dim() else 0
    if rows != len(tensor):
        raise _wrong_shape(where, tuple(tensor.shape), f"{rows} rows")
    return result


def _wrong_shape(where: str, found: tuple[int, ...], wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{where} has shape {found}, its config.json asks for {wanted}.\n"
        "The two belong to different checkpoints: download the folder again."
    )


def same(*names: str) -> dict[str, dict[str, Rows]]:
    """Modules that keep their names."""
    return {name: {name: None} for name in names}


LLAMA_MODULES = same(
    "model.embed_tokens", "model.norm", "lm_head", "model.layers.*.input_layernorm",
    "model.layers.*.post_attention_layernorm",
    *(f"model.layers.*.self_attn.{name}_proj" for name in "qkvo"),
    *(f"model.layers.*.mlp.{name}_proj" for name in ("gate", "up", "down")),
)  # fmt: skip
"""Of checkpoints that have the names of the native Llama."""
