"""The one generator: chat, evaluation and the sample answers of training all ask it."""

import sys
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vlmtool.chat.answer import Answer
from vlmtool.chat.batch import Batch, read_batch
from vlmtool.chat.decoder import Decoder, PromptCache
from vlmtool.chat.prompt import Prompt, Request, read_prompt
from vlmtool.chat.sampling import GenerationSettings, Sampler
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.render import Renderer
from vlmtool.models.prefix import prefix_length
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import DataError

__all__ = ["GenerationSettings", "Generator", "PromptCache", "Request"]


class Generator:
    """Answers requests with a model as it stands: its dtypes, its device, its weights at the time of the call.

    Args:
        transform: None for a model without eyes, whose renderer refuses images.
        identity: hash of the model, for stores of answers; empty while it is trained.
        shares_prefixes: compute what neighbours in a batch begin with once; the answers are the same.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        renderer: Renderer,
        transform: ImageTransform | None,
        identity: str = "",
        shares_prefixes: bool = True,
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.transform = transform
        self.identity = identity
        self.shares_prefixes = shares_prefixes
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
        return self.answer(self.prepare(requests), settings)

    def prepare(self, requests: Sequence[Request]) -> Batch:
        """Read prompts and images; needs no device.

        Raises:
            DataError: an image is missing or broken, or a prompt fills the model's context.
        """
        known: dict[Hashable, Hashable] = {}
        return read_batch([self._read(request, known) for request in requests], self.transform)

    def answer(self, batch: Batch, settings: GenerationSettings) -> list[str]:
        """Answer what was prepared, in the order given. Beginnings that neighbours share are computed once."""
        answers = [self._new_answer(prompt, settings) for prompt in batch.prompts]
        if answers:
            with answering(self.model):
                self._decode(batch, answers, settings)
        return [answer.text for answer in answers]

    def read_prompts(self, batch: Batch) -> tuple[Decoder, Tensor]:
        """Run the prompts of what was prepared: where decoding goes on, and logits (B, V) of what comes next.

        Within `answering(self.model)`.
        """
        decoder = Decoder(self.model.llm)
        return decoder, self._prefill(decoder, batch)

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

    def _decode(self, batch: Batch, answers: Sequence[Answer], settings: GenerationSettings) -> None:
        """Fill the answers, all prompts in one batch that shrinks as answers end."""
        decoder, logits = self.read_prompts(batch)
        sampler = Sampler(settings, len(answers), self.model.device)
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
                decoder.keep(going)
                sampler.keep(rows)
                tokens, active = tokens[rows], [active[row] for row in going]
            logits = decoder.feed(tokens)

    def _prefill(self, decoder: Decoder, batch: Batch) -> Tensor:
        """Logits (B, V) of the first answer tokens; what a family shares is run once, and its rows go on from there."""
        image_embeds = self._encode(batch)
        families = batch.families
        if not self.shares_prefixes or all(family.size == 1 for family in families):
            return decoder.prefill(*self._embed(batch.prompts, batch, image_embeds))
        prefixes = [batch.prompts[family.first].part(0, family.shared) for family in families]
        decoder.prefill(*self._embed(prefixes, batch, image_embeds))
        row_of = [number for number, family in enumerate(families) for _ in range(family.size)]
        decoder.keep(row_of)
        rest = [prompt.part(families[row].shared) for prompt, row in zip(batch.prompts, row_of, strict=True)]
        return decoder.prefill(*self._embed(rest, batch, image_embeds))

    def _prefill_new(self, prompt: Prompt, cache: PromptCache) -> tuple[Decoder, Tensor]:
        """Compute what of the prompt `cache` does not hold."""
        rest = prompt.part(cache.reuse(prompt.keys))
        batch = read_batch([rest], self.transform)
        embeds, _ = self._embed([rest], batch, self._encode(batch))
        decoder = Decoder(self.model.llm, cache.kv)
        with cache.changing():
            logits = decoder.prefill(embeds)
            cache.keys[:] = prompt.keys
        return decoder, logits

    def _encode(self, batch: Batch) -> list[Tensor]:
        """Embeddings (N'_i, D) of each of the batch's different images."""
        return [] if batch.pixels is None else self.model.encode_images(batch.pixels.to(self.model.device))

    def _embed(
        self, prompts: Sequence[Prompt], batch: Batch, image_embeds: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, T, D) padded on the left, and the mask (B, T), None where nothing is padded."""
        longest = max(len(prompt.input_ids) for prompt in prompts)
        rows = [torch.tensor(prompt.input_ids) for prompt in prompts]
        input_ids = torch.stack([pad(row, (longest - len(row), 0)) for row in rows]).to(self.model.device)
        mask = torch.stack([pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows]).to(self.model.device)
        own = [image_embeds[batch.number_of[key]] for prompt in prompts for key in prompt.image_keys]
        return self.model.embed(input_ids, own), None if bool(mask.all()) else mask

    def _read(self, request: Request, known: dict[Hashable, Hashable] | None = None) -> Prompt:
        prompt = read_prompt(self.renderer, request, self._image_folder, known)
        if (length := len(prompt.input_ids)) >= self.context:
            raise DataError(
                f"The prompt has {length} tokens, images included; the model reads {self.context} at most.\n"
                "Shorten it; in a chat, /reset begins anew."
            )
        return prompt

    @property
    def context(self) -> int:
        """Tokens that the model reads and writes at most, beside a prefix."""
        positions = getattr(self.model.llm.config, "max_position_embeddings", None) or sys.maxsize
        return positions - prefix_length(self.model.llm)

    def _new_answer(self, prompt: Prompt, settings: GenerationSettings) -> Answer:
        words = (*self.renderer.template.stop_words, *settings.stop_words)
        room = min(settings.max_new_tokens, self.context - len(prompt.input_ids))
        ids = self._stop_ids | special_words(self.renderer, words)
        return Answer(self.renderer.tokenizer, room, ids, words)


def stop_ids(renderer: Renderer, llm: nn.Module) -> frozenset[int]:
    """Tokens that end an answer: the template's, EOS, and the LLM's own list where its tokenizer has them as special.

    A config that says nothing has transformers' default, which may be any ordinary token here.
    """
    listed = getattr(getattr(llm, "generation_config", None), "eos_token_id", None)
    own: list[int] = listed if isinstance(listed, list) else [] if listed is None else [listed]
    added = renderer.tokenizer.added_tokens_decoder
    special = {*renderer.tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
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
