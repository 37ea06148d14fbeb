"""Language models: load, quantise, and logits where they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel

from vlmtool.models.complete import check_complete
from vlmtool.models.imports.vlm import find_vlm
from vlmtool.models.legacy.find import find_legacy
from vlmtool.models.legacy.load import load_legacy
from vlmtool.models.pickled import check_pickled_weights
from vlmtool.utils.errors import CheckpointError, UsageError, message_lines
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.remote_code import ALLOW, hub_kernel, needs_remote_code


def load_llm(
    path: Path,
    dtype: torch.dtype | str,
    quantization: str | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal LM from a local folder, on `device`, in eval mode.

    A checkpoint of legacy/ becomes its native class, allowed code or not: that code is never run. Of a whole
    vision-language model it is the language model.

    Args:
        dtype: of the weights that are not quantised; "auto" takes the checkpoint's.
        quantization: None, "nf4" (double quantisation; QLoRA, arXiv 2305.14314) or "int8".

    Raises:
        CheckpointError: the folder is damaged, incomplete or unsafe, is an adapter, or needs remote code that was not
            allowed.
    """
    check_llm_folder(path, trust_remote_code)
    legacy, vlm = find_legacy(path), find_vlm(path)
    arguments: dict[str, Any] = {"dtype": dtype}
    if quantization:
        arguments["quantization_config"] = quantization_config(quantization, dtype)
        arguments["device_map"] = {"": str(device)}
    try:
        if legacy is not None:
            model, missing = load_legacy(path, legacy, **arguments), ()
        elif vlm is not None:
            model, missing = vlm.load_llm(**arguments), ()
        else:
            model, loading = AutoModelForCausalLM.from_pretrained(
                path, output_loading_info=True, trust_remote_code=trust_remote_code, **arguments
            )
            missing = loading["missing_keys"]
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(load_failure(path, error)) from error
    check_complete(path, missing)
    if quantization:
        keep_gradients_on_cpu(model)
        return model
    return model.to(device)


def read_llm_config(path: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of the class that `load_llm` makes of the folder; no weights are read.

    Raises:
        CheckpointError: a config of legacy/ or of a vision-language model that has no native form. Any other raises
            what transformers raises.
    """
    legacy = find_legacy(path)
    if legacy is not None:
        return legacy.native_config(path)
    if (vlm := find_vlm(path)) is not None:
        return vlm.facts.llm_config
    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def check_llm_folder(path: Path, trust_remote_code: bool) -> None:
    """Refuse what transformers does without asking: load another model instead of this one, fetch code from the hub.

    Raises:
        CheckpointError: the folder asks for that.
    """
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{path}: holds adapter_config.json: it is an adapter, and would bring the base that it names.\n"
            "Give the base, and the adapter beside it; or merge the two: vlmtool convert merge BASE ADAPTER SAVE_PATH."
        )
    check_pickled_weights(path)
    if not trust_remote_code and (kernel := hub_kernel(path)) is not None:
        raise CheckpointError(
            f"{path}: its config.json asks for code from the hub, '{kernel}', which was not run.\n"
            f"Take that implementation out of config.json, or allow the code: {ALLOW}."
        )


def load_failure(path: Path, error: BaseException) -> str:
    """Why transformers could not load the part at `path`, and what to do."""
    if "Unrecognized configuration class" in str(error) and (other := other_than_model(path)):
        return f"{path}: this is {other.what}, not a language model.\n{other.remedy}"
    reason = message_lines(error)[0]
    if needs_remote_code(error):
        return (
            f"{path}: this checkpoint needs code of its own to load, which was not run.\n"
            f"Use a checkpoint of a native transformers class, or allow the code: {ALLOW}."
        )
    return f"{path}: the part cannot be loaded: {reason}\nIs the folder whole (config.json and all its weight files)?"


def quantization_config(quantization: str, dtype: torch.dtype | str) -> BitsAndBytesConfig:
    """bitsandbytes' settings for a name of the recipes."""
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def keep_gradients_on_cpu(model: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for its bf16 CPU kernel.

    After one eval-mode forward on a CPU with avx512_bf16 the repacked layers pass no gradient, silently.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def blocks_of(llm: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, which stand in its longest list of modules."""
    lists = [m for m in llm.modules() if isinstance(m, nn.ModuleList)]
    return list(max(lists, key=len, default=()))


def compile_blocks(llm: nn.Module, num_left: int = 0) -> None:
    """Have each block compiled by torch, in place, at its first pass; alike as they are, they share the code.

    Args:
        num_left: of the last blocks, to be left as they are.
    """
    blocks = blocks_of(llm)
    for block in blocks[: len(blocks) - num_left]:
        block.compile(dynamic=True)


def use_liger(llm: PreTrainedModel) -> None:
    """Have Liger's kernels compute norms and gated MLPs, in place; loss and rotary positions stay as they are.

    Raises:
        UsageError: as of `check_liger`.

    Source: https://github.com/linkedin/Liger-Kernel.
    """
    check_liger(llm.config.model_type)
    apply_liger_kernel(llm, {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False})


def check_liger(model_type: str) -> None:
    """See that Liger's kernels can be used.

    Raises:
        UsageError: there is no GPU or no Liger, or it has nothing for this kind of model.
    """
    remedy = "Leave runtime.liger out."
    if not torch.cuda.is_available():
        raise UsageError(f"runtime.liger: its kernels need a GPU.\n{remedy}")
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as known
    except ImportError as error:
        raise UsageError(
            f"runtime.liger: liger-kernel cannot be imported: {error}\npip install 'vlmtool[liger]', or leave it out."
        ) from error
    if model_type not in known:
        raise UsageError(f"runtime.liger: it has no kernels for a model of type '{model_type}'.\n{remedy}")


@contextmanager
def head_at(llm: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """While open, the output head sees only the hidden states at `positions`.

    `positions` is a (B, T) bool mask with S true entries; `llm(...).logits` then has shape (1, S, V), whatever
    the class does with its logits afterwards (soft-capping, scaling).
    """

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][positions].unsqueeze(0), *inputs[1:])

    handle = llm.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
