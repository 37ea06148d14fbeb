"""How likely a model finds each of some given answers: for questions whose answer is one of a few words or letters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmtool.chat.batch import Batch
from vlmtool.chat.decoder import Decoder
from vlmtool.chat.generator import Generator, Request, answering
from vlmtool.data.conversation import Conversation, assistant
from vlmtool.data.render import Renderer
from vlmtool.utils.errors import DataError, UsageError


@dataclass(frozen=True)
class Options:
    """Prompts that were read, and of each the options by their text, as the token ids that continue the prompt."""

    batch: Batch
    token_ids: list[dict[str, list[int]]]


def likelihoods(
    generator: Generator, requests: Sequence[Request], options: Sequence[Sequence[str]]
) -> list[dict[str, float]]:
    """Log-probability, natural, of each option as the first word of the answer.

    Summed over the option's tokens; what ends an answer is not counted, so that an option may be followed by anything.
    Options of one token cost one pass over the prompt.

    Args:
        options: of each request, its options; none may be empty.

    Raises:
        DataError: an image is missing or broken, or a prompt with an option fills the model's context.
        UsageError: the chat template does not continue the prompt with the answer as it is.
    """
    return score_options(generator, read_options(generator, requests, options))


def read_options(generator: Generator, requests: Sequence[Request], options: Sequence[Sequence[str]]) -> Options:
    """Read prompts, images and options; needs no device. Arguments and errors as those of `likelihoods`."""
    batch = generator.prepare(requests)
    token_ids = [
        {text: option_ids(generator.renderer, request, prompt.input_ids, text) for text in texts}
        for request, prompt, texts in zip(requests, batch.prompts, options, strict=True)
    ]
    for prompt, of_prompt in zip(batch.prompts, token_ids, strict=True):
        length = len(prompt.input_ids) + max(map(len, of_prompt.values()), default=0)
        if length > generator.context:
            raise DataError(
                f"A prompt and its longest option have {length} tokens, images included; the model reads "
                f"{generator.context} at most.\nShorten the question."
            )
    return Options(batch, token_ids)


def score_options(generator: Generator, options: Options) -> list[dict[str, float]]:
    """`likelihoods` of what was read."""
    if not options.batch.prompts:
        return []
    with answering(generator.model):
        decoder, logits = generator.read_prompts(options.batch)
        return _sum_up(decoder, logits, options.token_ids)


def option_ids(renderer: Renderer, request: Request, prompt_ids: Sequence[int], option: str) -> list[int]:
    """Token ids of an option after the prompt, as they stand in the training sample whose answer is the option.

    They are the shortest beginning of the answer's ids that reads as the option: a space that the template puts before
    an answer is part of it, its end is not.

    Raises:
        UsageError: the sample does not begin with the prompt, or the answer does not begin with the option.
    """
    messages = (*request.messages, assistant(option))
    if renderer.template.marks_answers:
        ids = renderer.sample(Conversation("option", messages)).input_ids
    else:  # such a template cannot render a sample; its answers stand in a longer prompt as they do there
        ids = renderer.prompt(messages)
    start = len(prompt_ids)
    if ids[:start] == list(prompt_ids):
        for stop in range(start + 1, len(ids) + 1):
            said = renderer.tokenizer.decode(
                ids[start:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
            ).strip()
            if said == option:
                return ids[start:stop]
            if len(said) > len(option) + 1:  # half a character shows as one
                break
    raise UsageError(
        f"--score likelihood: with this chat template, an answer '{option}' does not directly follow the prompt.\n"
        "Name another template, or leave --score out and have the answers generated."
    )


def _sum_up(decoder: Decoder, logits: Tensor, token_ids: Sequence[dict[str, list[int]]]) -> list[dict[str, float]]:
    """Add up token after token; options with a further token go on, each in a row of its own.

    Args:
        decoder: after the prompts.
        logits: (B, V) of the tokens after the prompts.
    """
    sums = [dict.fromkeys(of_prompt, 0.0) for of_prompt in token_ids]
    going = [(prompt, text, ids) for prompt, of_prompt in enumerate(token_ids) for text, ids in of_prompt.items()]
    rows = [prompt for prompt, _, _ in going]  # of the decoder, where each option's next token is told
    position = 0
    while going:
        log_probabilities = logits.float().log_softmax(-1)
        tokens = torch.tensor([ids[position] for _, _, ids in going], device=logits.device)
        place = torch.tensor(rows, device=logits.device)
        for (prompt, text, _), value in zip(going, log_probabilities[place, tokens].tolist(), strict=True):
            sums[prompt][text] += value
        position += 1
        longer = [number for number, (_, _, ids) in enumerate(going) if len(ids) > position]
        if not longer:
            break
        kept = torch.tensor(longer, device=logits.device)
        decoder.keep([rows[number] for number in longer])
        logits = decoder.feed(tokens[kept])
        going, rows = [going[number] for number in longer], list(range(len(longer)))
    return sums
