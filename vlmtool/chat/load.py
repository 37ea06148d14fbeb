"""From the words of the command line to a generator."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmtool.chat.adapter import add_adapter
from vlmtool.chat.generator import Generator
from vlmtool.chat.model_plan import Flags, ModelPlan
from vlmtool.chat.plan import make_plan
from vlmtool.chat.text_model import TextModel, refuse_image
from vlmtool.chat.transform import colours_of, make_transform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import ChatTemplate, find_template
from vlmtool.data.tokenizer import image_token_id, load_tokenizer
from vlmtool.models.build import build_beside, build_llm, load_encoder_weights
from vlmtool.models.encoders.fused import ImageEncoder
from vlmtool.models.encoders.vision import encoder_class
from vlmtool.models.fingerprint import file_hashes, part_hash
from vlmtool.models.folder import load_projector
from vlmtool.models.imports.encoder import put_over
from vlmtool.models.manifest import FILE_NAME
from vlmtool.models.projectors.base import Projector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.allocator import keep_freed_memory
from vlmtool.utils.distributed import is_main, local_gpu
from vlmtool.utils.errors import CheckpointError, UsageError, did_you_mean
from vlmtool.utils.remote_code import check_trusted
from vlmtool.utils.terminal import clean, err

DTYPES: dict[str, torch.dtype | str] = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "auto": "auto",
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
}  # fmt: skip
QUANTIZATIONS = {None: None, 4: "nf4", 8: "int8"}


def load_chat_model(
    model: str | None,
    llava: str | None = None,
    adapter: str | None = None,
    visual_encoder: str | None = None,
    visual_select_layer: int | None = None,
    prompt_template: str | None = None,
    torch_dtype: str | None = None,
    bits: int | None = None,
    device: str | None = None,
    offload_folder: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Generator:
    """The generator of a model folder, of a language model and `llava` folder, or of a language model alone.

    Args:
        model, llava, adapter, visual_encoder: local folders or hub ids.
        torch_dtype: a key of `DTYPES`; None takes the checkpoint's on a GPU and float32 on a CPU.
        bits: 4 (NF4) or 8 for the LLM.
        device: such as "cuda:1"; None takes a GPU if there is one.
        force: warn where an adapter meets a base that it was not trained on.

    Raises:
        UsageError: a flag or a path that is wrong; nothing is loaded yet.
        CheckpointError: parts that are damaged or do not belong together.
    """
    place = pick_device(device)
    dtype = pick_dtype(torch_dtype, place)
    if bits not in QUANTIZATIONS:
        raise UsageError(f"--bits {bits}: it takes 4 or 8.\nLeave it out for full precision.")
    if offload_folder is not None:
        _warn("--offload-folder has no effect: the model is kept on one device.")
    plan = make_plan(Flags(model, llava, adapter, visual_encoder, visual_select_layer, prompt_template), _warn, force)
    if place.type == "cpu":
        keep_freed_memory()
    return build_generator(plan, dtype, QUANTIZATIONS[bits], place, trust_remote_code)


def build_generator(
    plan: ModelPlan, dtype: torch.dtype | str, quantization: str | None, device: torch.device, trust_remote_code: bool
) -> Generator:
    """Load what the plan names."""
    tokenizer = load_tokenizer(plan.tokenizer, trust_remote_code)
    template = _template(plan, tokenizer.chat_template)
    if plan.told and is_main():
        err().print(clean(f"{plan.told}; prompts by {template.name or 'the chat template of its tokenizer'}."))
    identity = identity_of(plan, template, f"{dtype} {quantization}")
    llm: nn.Module = build_llm(
        plan.llm.weights, dtype, quantization, device=device, trust_remote_code=trust_remote_code
    )
    if plan.llm.adapter is not None:
        llm = add_adapter(llm, plan.llm.adapter)
    llm.requires_grad_(False).eval()
    encoder = load_encoder(plan, dtype, device, trust_remote_code)
    if encoder is None or plan.projector is None or plan.image_processor is None:
        text_model = TextModel(llm, image_token_id(tokenizer))
        return Generator(text_model, Renderer(tokenizer, template, refuse_image), None, identity)
    projector = load_projector(plan.projector, device, trust_remote_code)
    _check_widths(plan.projector, projector, encoder, llm)
    model = VisionLanguageModel(encoder, projector, llm, image_token_id(tokenizer)).requires_grad_(False).eval()
    transform = make_transform(encoder, projector, plan.image_processor, plan.pad_to_square)
    return Generator(model, Renderer(tokenizer, template, transform.num_tokens), transform, identity)


def load_encoder(
    plan: ModelPlan, dtype: torch.dtype | str, device: torch.device, trust_remote_code: bool = False
) -> ImageEncoder | None:
    """The image encoder, if there is one; its adapter is put on before the blocks above the selected layer are dropped.

    So an adapter that covers all blocks fits as well as one that covers those below the selected layer.
    """
    part = plan.vision_encoder
    if part is None:
        return None
    reading = plan.reading
    for key, read in (("", reading), ("beside.", reading.beside)):
        if read is not None and read.type is not None:
            check_trusted(read.type, f"{plan.tokenizer / FILE_NAME}: vision_encoder.{key}type", trust_remote_code)
    weights: nn.Module = load_encoder_weights(part.weights, dtype, reading.type)
    if part.over is not None:
        put_over(weights, part.over)
    if part.adapter is not None:
        weights = add_adapter(weights, part.adapter)
    encoder = encoder_class(reading.type)(weights, reading).to(device)
    if plan.beside is None or plan.image_processor is None:
        return encoder
    colours = colours_of(plan.image_processor, plan.beside.image_processor)
    return build_beside(encoder, plan.beside.weights, dtype, colours, device)


def identity_of(plan: ModelPlan, template: ChatTemplate, precision: str) -> str:
    """Hash of all that the answers depend on, the question and the settings of generation aside."""
    parts = [plan.llm, plan.vision_encoder] if plan.vision_encoder is not None else [plan.llm]
    folders: list[Path] = [path for part in parts for path in (part.weights, part.adapter) if path is not None]
    folders += [plan.beside.weights] if plan.beside is not None else []
    folders += [plan.projector] if plan.projector is not None else []
    said = [
        [_hash(path) for path in folders], template.jinja, template.stop_words,
        plan.reading.said(), plan.pad_to_square, precision,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _hash(path: Path) -> str:
    """Of a part's folder, or of a file."""
    return part_hash(path) if path.is_dir() else file_hashes([path])[path]


def pick_device(name: str | None) -> torch.device:
    """The device called `name`; without a name this process's GPU, or the CPU where there is none.

    Raises:
        UsageError: there is no such device.
    """
    if name is None:
        return local_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: there is no such device.\nGive cpu, cuda or cuda:NUMBER.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} GPUs.\nGive cpu, or one it has."
        )
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype | str:
    """The dtype called `name`; without a name the checkpoint's on a GPU, float32 on a CPU.

    Raises:
        UsageError: no such dtype.
    """
    if name is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in DTYPES:
        raise UsageError(
            f"--torch-dtype {name}: unknown.{did_you_mean(name, DTYPES)}\nIt takes fp16, bf16, fp32 or auto."
        )
    return DTYPES[name]


def _template(plan: ModelPlan, tokenizer_template: str | None) -> ChatTemplate:
    """The tokenizer's own template with the manifest's stop words, or the one that was named."""
    template = find_template(plan.template, tokenizer_template)
    return template if plan.template is not None else ChatTemplate(None, template.jinja, plan.stop_words)


def _check_widths(folder: Path, projector: Projector, encoder: ImageEncoder, llm: PreTrainedModel) -> None:
    found = (encoder.hidden_size, llm.get_input_embeddings().weight.shape[1])
    wanted = (projector.vision_hidden_size, projector.llm_hidden_size)
    if found != wanted:
        raise CheckpointError(
            f"{folder}: the projector leads from width {wanted[0]} to {wanted[1]}, but the encoder has {found[0]} "
            f"and the language model {found[1]}.\nGive the encoder and the language model that it was trained with."
        )


def _warn(text: str) -> None:
    err().print(f"Warning: {clean(text)}")
