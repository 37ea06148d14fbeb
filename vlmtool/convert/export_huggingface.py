"""A model of transformers' LLaVA classes, whole: `AutoProcessor` and `AutoModelForImageTextToText` open the folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vlmtool.chat.generator import special_words, stop_ids
from vlmtool.convert.export import export_of, not_held
from vlmtool.convert.layouts.early import LEVEL_TYPES, below_vision_model
from vlmtool.convert.layouts.huggingface import PROJECTOR
from vlmtool.convert.layouts.names import renamed
from vlmtool.convert.llava_fit import FORMAT, LlavaFit, find_fit, make_llava
from vlmtool.convert.llava_processor import write_processor
from vlmtool.convert.parts import cast
from vlmtool.convert.source import Source
from vlmtool.convert.whole import Writing, whole_encoder, whole_llm
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.manifest import Export


def write_huggingface(source: Source, folder: Path, writing: Writing, facts: dict[str, Any]) -> Export:
    """Fill a new folder: the whole model in the LLM's type, every adapter merged, and its processor.

    Args:
        facts: of the manifest, beside the two parts.

    Raises:
        UsageError: the classes cannot hold this model.
    """
    fit = find_fit(source)
    renderer = _renderer(source, fit)
    write_processor(fit, renderer, folder)
    model = build_llava(source, fit, renderer, writing.dtype(source.llm), folder)
    model.generation_config = _generation(renderer, model)
    state = model.state_dict()
    if fit.encoder.model.config.model_type in LEVEL_TYPES:
        state = below_vision_model(state, "model.vision_tower")
    model.save_pretrained(folder, state_dict=state, max_shard_size=writing.max_shard_size)
    return export_of(source, FORMAT, facts, ("llm", "vision_encoder", "projector"))


def _renderer(source: Source, fit: LlavaFit) -> Renderer:
    """Of the training, for pictures in memory."""
    tokenizer = load_tokenizer(source.llm.folder, source.trust_remote_code)
    said = source.meta["template"]
    template = ChatTemplate(said["name"], said["jinja"], tuple(said["stop_words"]))
    return Renderer(tokenizer, template, ImageTransform(fit.views).num_tokens)


def build_llava(source: Source, fit: LlavaFit, renderer: Renderer, dtype: torch.dtype, work: Path) -> PreTrainedModel:
    """The trained parts in the place that the classes have for them.

    Args:
        work: folder for files that are needed in between.

    Raises:
        UsageError: the LLM does more to its logits than its head.
    """
    llm = whole_llm(source, dtype, work)
    if not _head_is_all(llm):
        raise not_held(FORMAT, f"a {type(llm).__name__}: it changes its logits after the output head")
    add_rows(llm, len(renderer.tokenizer))
    encoder = whole_encoder(source, dtype, work)
    config = fit.config(source, llm.config, encoder.config, renderer.image_token_id)
    config.dtype = dtype
    model = make_llava(config)
    projector = renamed(cast(source.state("projector"), dtype, str(source.checkpoint.path)), PROJECTOR)
    model.model.load_state_dict(projector, strict=False, assign=True)
    model.model.vision_tower, model.model.language_model = encoder, llm.base_model
    model.lm_head = llm.get_output_embeddings()
    model.generation_config = llm.generation_config
    return model


@torch.no_grad()
def _head_is_all(llm: PreTrainedModel) -> bool:
    """The logits are what a head without bias makes of the last hidden states: no soft cap, no scale."""
    head = llm.get_output_embeddings()
    input_ids = torch.arange(4)[None]
    hidden_states = llm.base_model(input_ids, use_cache=False).last_hidden_state
    logits = llm(input_ids, use_cache=False).logits
    return head.bias is None and torch.equal(head(hidden_states).to(logits.dtype), logits)


@torch.no_grad()
def add_rows(llm: PreTrainedModel, num_tokens: int) -> None:
    """Let the embedding table and the output head have a row for each token.

    New rows are the mean of the others: the logit of such a row is the mean of all logits, which is never the highest,
    so the new tokens are not answered. The tables are not padded beyond, which nothing here needs.
    """
    before = llm.get_input_embeddings().weight.shape[0]
    if num_tokens <= before:
        return
    llm.resize_token_embeddings(num_tokens, mean_resizing=False)
    for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        weight: Tensor = layer.weight
        weight[before:] = weight[:before].mean(0, dtype=torch.float32).to(weight.dtype)


def _generation(renderer: Renderer, model: PreTrainedModel) -> GenerationConfig:
    """Where answers end, as in chat: EOS, the LLM's own list, and stop words of one token."""
    ends = stop_ids(renderer, model) | special_words(renderer, renderer.template.stop_words)
    return GenerationConfig(
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=sorted(ends),
        pad_token_id=renderer.tokenizer.pad_token_id,
        suppress_tokens=[renderer.image_token_id],
    )
