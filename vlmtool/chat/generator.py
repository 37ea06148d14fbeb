"""The one generator: chat, evaluation and the sample answers of training all ask it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vlmtool.chat.answer import Answer
from vlmtool.chat.decoder import Decoder, PromptCache
from vlmtool.chat.prompt import Prompt, Request, distinct, read_prompt
from vlmtool.chat.sampling import GenerationSettings, Sampler
from vlmtool.data.conversation import Image
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import DataError

__all__ = ["GenerationSettings", "Generator", "PromptCache", "Request"]


class Generator:
    """Answers requests with a model as it stands: its dtypes, its device, its weights at the time of the call.

    Args:
        transform: None for a model without eyes, whose renderer refuses images.
        identity: hash of the model, for stores of answers; empty while it is trained.
    """

    def __init__(
        self, model: VisionLanguageModel, renderer: Renderer, transform: ImageTransform | None, identity: str = ""
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.transform = transform
        self.identity = identity
        self._image_folder = transform.image_folder if transform is not None else Path(".")
        self._stop_ids = stop_ids(renderer, model.llm)

    def prompt_length(self, request: Request) -> int:
        """Tokens of the prompt, image tokens included; no image is opened."""
        return len(self.renderer.prompt(request.messages))

    def generate(self, requests: Sequence[Request], settings: GenerationSettings) -> list[str]:
        """Answer one batch; answers in the order given.

        Raises:
            DataError: an image is missing or broken, or a prompt fills the model's context.
        """
        if not requests:
            return []
        prompts = [self._read(request) for request in requests]
        answers = [self._new_answer(prompt, settings) for prompt in prompts]
        with answering(self.model):
            self._decode(prompts, answers, settings)
        return [answer.text for answer in answers]

    def stream(self, request: Request, settings: GenerationSettings, cache: PromptCache | None = None) -> Iterator[str]:
        """The answer in pieces as they come; together they are what `generate` gives.

        Args:
            cache: kept by the caller from turn to turn; only what differs from the turn before is computed.
        """
        cache = PromptCache() if cache is None else cache
        prompt = self._read(request)
        answer = self._new_answer(prompt, settings)
        sampler = Sampler(settings, 1, self.model.device)
        with answering(self.model):
            decoder, logits = self._prefill_new(prompt, cache)
        keys = cache.keys
        while True:
            # The mode is entered for each token anew: the caller's code runs between the pieces.
            with answering(self.model):
                tokens = sampler.pick(logits)
            answer.push(int(tokens))
            if piece := answer.new_piece():
                yield piece  # the cache is whole here: the answer may be left
            if answer.is_finished:
                return
            with answering(self.model), cache.changing():
                logits = decoder.feed(tokens)
                keys.append(int(tokens))

    def _decode(self, prompts: Sequence[Prompt], answers: Sequence[Answer], settings: GenerationSettings) -> None:
        """Fill the answers, all prompts in one batch that shrinks as answers end."""
        decoder = Decoder(self.model.llm)
        sampler = Sampler(settings, len(prompts), self.model.device)
        logits = decoder.prefill(*self._embed(prompts))
        active = list(answers)
        while True:
            tokens = sampler.pick(logits)
            for answer, token in zip(active, tokens.tolist(), strict=True):
                answer.push(token)
            going = [row for row, answer in enumerate(active) if not answer.is_finished]
            if not going:
                return
            if len(going) < len(active):
                rows = torch.tensor(going, device=tokens.device)
                decoder.keep(rows)
                sampler.keep(rows)
                tokens, active = tokens[rows], [active[row] for row in going]
            logits = decoder.feed(tokens)

    def _prefill_new(self, prompt: Prompt, cache: PromptCache) -> tuple[Decoder, Tensor]:
        """Compute what of the prompt `cache` does not hold."""
        start = cache.reuse(prompt.keys)
        input_ids = torch.tensor([prompt.input_ids[start:]], device=self.model.device)
        new_images = [image for image, at in zip(prompt.images, prompt.image_starts, strict=True) if at >= start]
        embeds = self.model.embed(input_ids, self._encode(new_images))
        decoder = Decoder(self.model.llm, cache.kv)
        with cache.changing():
            logits = decoder.prefill(embeds)
            cache.keys[:] = prompt.keys
        return decoder, logits

    def _embed(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, T, D) padded on the left, and the mask (B, T), None where nothing is padded."""
        longest = max(len(prompt.input_ids) for prompt in prompts)
        rows = [torch.tensor(prompt.input_ids) for prompt in prompts]
        input_ids = torch.stack([pad(row, (longest - len(row), 0)) for row in rows]).to(self.model.device)
        mask = torch.stack([pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows]).to(self.model.device)
        images = self._encode([image for prompt in prompts for image in prompt.images])
        return self.model.embed(input_ids, images), None if bool(mask.all()) else mask

    def _encode(self, images: Sequence[Image]) -> Tensor | None:
        """Image embeddings (I, N', D); an image that occurs several times is encoded once."""
        if not images or self.transform is None:
            return None
        unique, which = distinct(images, self._image_folder)
        image_embeds = self.model.encode_images(self.transform(unique).to(self.model.device))
        return image_embeds[torch.tensor(which, device=image_embeds.device)]

    def _read(self, request: Request) -> Prompt:
        prompt = read_prompt(self.renderer, request, self._image_folder)
        if (length := len(prompt.input_ids)) >= self._context:
            raise DataError(
                f"The prompt has {length} tokens, images included; the model reads {self._context} at most.\n"
                "Shorten it; in a chat, /reset begins anew."
            )
        return prompt

    @property
    def _context(self) -> int:
        return getattr(self.model.llm.config, "max_position_embeddings", None) or sys.maxsize

    def _new_answer(self, prompt: Prompt, settings: GenerationSettings) -> Answer:
        words = (*self.renderer.template.stop_words, *settings.stop_words)
        room = min(settings.max_new_tokens, self._context - len(prompt.input_ids))
        ids = self._stop_ids | special_words(self.renderer, words)
        return Answer(self.renderer.tokenizer, room, ids, words)


def stop_ids(renderer: Renderer, llm: nn.Module) -> frozenset[int]:
    """Tokens that end an answer: the template's, EOS, and the LLM's own list where its tokenizer knows them as special.

    A config that says nothing has transformers' default, which may be any ordinary token here.
    """
    listed = getattr(getattr(llm, "generation_config", None), "eos_token_id", None)
    own: list[int] = listed if isinstance(listed, list) else [] if listed is None else [listed]
    special = set(renderer.tokenizer.all_special_ids)
    return frozenset(renderer.stop_ids()) | {token for token in own if token in special}


def special_words(renderer: Renderer, words: Sequence[str]) -> frozenset[int]:
    """Ids of the stop words that are one special token, which decoded text does not show."""
    special = set(renderer.tokenizer.all_special_ids)
    ids = (renderer.tokenizer.convert_tokens_to_ids(word) for word in words)
    return frozenset(token for token in ids if token in special)


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Eval mode without autograd; each module's own mode is restored.

    A model that is being trained runs under plain no_grad: a tensor that a module keeps from inference mode could not
    take part in a later backward pass.
    """
    training = [module for module in model.modules() if module.training]
    is_trained = any(parameter.requires_grad for parameter in model.parameters())
    for module in training:
        module.training = False
    try:
        with torch.no_grad() if is_trained else torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
