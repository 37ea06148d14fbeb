"""The demo's language model: a tiny `LlamaForCausalLM` that has only ever read text.

Where an image will stand later it reads a description: the scene's words in random order, and later in the training
some twice, among fillers, a little noisy and mixed, as projected patches will be. It learns to describe, to answer and
to choose a letter, also after an earlier question; the loss is on the answers.

Two things make it learn to choose within minutes. Weights start larger than transformers' default (0.06 for 0.02), so
that equal words meet in the attention from the start. And each option's word is told whether it is the right one, by a
second loss that fades out: which word was read before is hard to find out by the letter of the answer alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlmtool.demo import texts
from vlmtool.demo.part_tokenizer import ASSISTANT, USER
from vlmtool.demo.scenes import Scene, sample_scene

# Not longer: after 3,200 steps with more noise it chose as well from words, but projected colours stayed at 41 %.
STEPS, BATCH_SIZE, LEARNING_RATE, WARMUP = 2400, 32, 2e-3, 100
INITIALIZER_RANGE = 0.06
DIGIT_SHARE = 0.5
DESCRIBE_SHARE, FREE_SHARE = 0.1, 0.2  # of the questions; the others are multiple choice
TWO_TURNS_SHARE = 0.2  # of the batches ask twice about each scene
FILLERS = ("the", "a", "picture", "with", "in", "on")
REPEATED_SHARE = 0.7  # of the slots beyond the first mention of each word repeat one; the others hold fillers
MIN_SLOTS, MAX_SLOTS = 12, 24  # length of a description in tokens; the vision encoder gives 16 patches
NOISE = 0.4  # of the description's embeddings, in units of their root mean square
MIXING = 0.4  # at most this much of another slot's embedding is mixed into a slot
CLEAN, BLURRED, UNTOLD = 0.2, 0.6, 0.7  # shares of the steps: plain bags before, full blur from, no second loss from
IGNORED = -100


@dataclass(frozen=True)
class TextSample:
    """Token ids and labels of the same length; the description stands at `ids[2 : 2 + slots]`.

    `hints` are the labels of the second loss: at each option's word its letter if it is right, else a full stop.
    """

    ids: list[int]
    labels: list[int]
    hints: list[int]
    slots: int


def sample_turn(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question about a scene and its answer: describe, answer freely, or choose a letter."""
    lot = rng.random()
    if lot < DESCRIBE_SHARE:
        return str(rng.choice(texts.DESCRIBE)), texts.caption(scene)
    attribute = texts.sample_attribute(scene, rng)
    if lot < DESCRIBE_SHARE + FREE_SHARE:
        return texts.free_question(attribute, rng), texts.answer_sentence(str(scene.value(attribute)))
    choice = texts.sample_choice(scene, attribute, int(rng.integers(2, 5)), rng)
    return texts.choice_prompt(choice.question, choice.options), choice.letter


def sample_bag(scene: Scene, plain: bool, rng: np.random.Generator) -> list[str]:
    """The description: the scene's words in random order, unless `plain` with repetitions and fillers."""
    words = scene.words()
    extra = 0 if plain else int(rng.integers(MIN_SLOTS, MAX_SLOTS + 1)) - len(words)
    repeats = int(rng.binomial(extra, REPEATED_SHARE))
    bag = words + [words[i] for i in rng.integers(len(words), size=repeats)]
    bag += [FILLERS[i] for i in rng.integers(len(FILLERS), size=extra - repeats)]
    return [bag[i] for i in rng.permutation(len(bag))]


def build_sample(
    tokenizer: PreTrainedTokenizerFast, plain: bool, num_turns: int, rng: np.random.Generator
) -> TextSample:
    """One training sample: a description with questions and answers, laid out as the chat template does."""
    scene = sample_scene(rng, held_out=False, digit_share=DIGIT_SHARE)
    bag = sample_bag(scene, plain, rng)
    described = "".join(f" {word}" for word in bag)
    ids, labels, hints = [], [], []
    for number in range(num_turns):
        question, answer = sample_turn(scene, rng)
        opening = f"{tokenizer.bos_token}{USER}{described}\n" if number == 0 else USER
        prompt, reply = tokenizer(
            [f"{opening}{question}{ASSISTANT}", f"{answer}{tokenizer.eos_token}"], add_special_tokens=False
        )["input_ids"]
        ids += prompt + reply
        labels += [IGNORED] * len(prompt) + reply
        hints += option_hints(prompt, reply[0], tokenizer) + [IGNORED] * len(reply)
    return TextSample(ids, labels, hints, len(bag))


def option_hints(prompt: list[int], right: int, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Labels of the second loss for a prompt: at each word after `A.`, `B.` … the letter if it is `right`, else `.`."""
    letters, stop = {*tokenizer.convert_tokens_to_ids(list(texts.LETTERS))}, tokenizer.convert_tokens_to_ids(".")
    hints = [IGNORED] * len(prompt)
    for t in range(2, len(prompt)):
        if prompt[t - 1] == stop and prompt[t - 2] in letters:
            hints[t] = right if prompt[t - 2] == right else stop
    return hints


def collate(samples: list[TextSample], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, labels, hints (`IGNORED` elsewhere) and a mask of the description, each (B, T), padded on the right."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), length), pad_id)
    labels, hints = torch.full_like(ids, IGNORED), torch.full_like(ids, IGNORED)
    described = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.ids)] = torch.tensor(sample.labels)
        hints[row, : len(sample.ids)] = torch.tensor(sample.hints)
        described[row, 2 : 2 + sample.slots] = True
    return ids, labels, hints, described


def blur(embeds: Tensor, described: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Mix neighbouring embeddings (B, T, D) of each description and add noise; other positions stay as they are."""
    batch = embeds.shape[0]
    share = amount * MIXING * torch.rand(batch, 1, 1, generator=generator)
    share = share * (described & described.roll(1, dims=1))[..., None]
    mixed = (1 - share) * embeds + share * embeds.roll(1, dims=1)
    size = embeds.detach()[described].square().mean().sqrt()
    strength = amount * NOISE * size * torch.rand(batch, 1, 1, generator=generator) * described[..., None]
    return mixed + strength * torch.randn(embeds.shape, generator=generator)


def answer_loss(model: LlamaForCausalLM, hidden: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the answers, the mean over samples: a letter weighs as much as a caption."""
    supervised = labels[:, 1:] != IGNORED
    weights = (1 / supervised.sum(1, keepdim=True)).expand_as(supervised)[supervised]
    losses = cross_entropy(model.lm_head(hidden[:, :-1][supervised]), labels[:, 1:][supervised], reduction="none")
    return (weights * losses).sum() / len(labels)


def new_llm(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model, 0.7 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_llm(
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Callable[[str], None], steps: int = STEPS
) -> LlamaForCausalLM:
    """Train the language model from scratch; about five minutes on 2 cores."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = new_llm(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * min(1.0, (steps - step) / (0.4 * steps))
    )
    for step in range(1, steps + 1):
        progress = step / steps
        turns = 2 if rng.random() < TWO_TURNS_SHARE else 1
        samples = [build_sample(tokenizer, progress < CLEAN, turns, rng) for _ in range(BATCH_SIZE)]
        ids, labels, hints, described = collate(samples, tokenizer.pad_token_id)
        amount = min(1.0, max(0.0, (progress - CLEAN) / (BLURRED - CLEAN)))
        embeds = blur(model.get_input_embeddings()(ids), described, amount, generator)
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        loss = answer_loss(model, hidden, labels)
        told, hinted = max(0.0, 1 - progress / UNTOLD), hints != IGNORED
        if told:
            loss = loss + told * cross_entropy(model.lm_head(hidden[hinted]), hints[hinted])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps:
            letters = letter_accuracy(model, tokenizer)
            say(f"language model: step {step}/{steps}, loss {loss.item():.3f}, letters right {letters:.3f}")
    return model


@torch.no_grad()
def letter_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 500) -> float:
    """Share of samples with a one-letter answer whose letter the model gives, on fresh descriptions without blur."""
    rng = np.random.default_rng(7)
    samples = [build_sample(tokenizer, False, 1, rng) for _ in range(count)]
    ids, labels, hints, _ = collate(samples, tokenizer.pad_token_id)
    best = model(input_ids=ids, use_cache=False).logits.argmax(-1)
    first = (labels != IGNORED).int().argmax(1)  # where each answer begins
    rows = (hints != IGNORED).any(1).nonzero().flatten()
    return float((best[rows, first[rows] - 1] == ids[rows, first[rows]]).float().mean())
