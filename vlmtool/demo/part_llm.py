"""The demo's language model: a tiny `LlamaForCausalLM` that has only ever read text.

Where an image will stand later it reads a description: the scene's words in random order, some twice, among fillers, a
little noisy and mixed, as projected patches will be. It learns to describe, to answer and to choose a letter; the loss
is on the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlmtool.demo import texts
from vlmtool.demo.part_tokenizer import ASSISTANT, USER
from vlmtool.demo.scenes import Scene, sample_scene

STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 2500, 64, 2e-3, 0.01
DIGIT_SHARE = 0.5
FILLERS = ("the", "a", "picture", "with", "in", "on")
REPEATED_SHARE = 0.7  # of the slots beyond the first mention of each word repeat one; the others hold fillers
MIN_SLOTS, MAX_SLOTS = 12, 24  # length of a description in tokens; the vision encoder gives 16 patches
NOISE = 0.4  # of the description's embeddings, in units of their root mean square
MIXING = 0.4  # at most this much of another slot's embedding is mixed into a slot
IGNORED = -100


@dataclass(frozen=True)
class TextSample:
    """Token ids and labels of the same length; the description stands at `ids[2 : 2 + slots]`."""

    ids: list[int]
    labels: list[int]
    slots: int


def sample_turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about a scene and their answers: describe, answer freely, choose a letter, or look letters up."""
    lot = rng.random()
    if lot < 0.15:
        return [(str(rng.choice(texts.DESCRIBE)), texts.caption(scene))]
    attribute = texts.sample_attribute(scene, rng)
    if lot < 0.3:
        return [(texts.free_question(attribute, rng), texts.answer_sentence(str(scene.value(attribute))))]
    choice = texts.sample_choice(scene, attribute, int(rng.choice([2, 3, 4, 4, 4])), rng)
    if lot < 0.6:
        return [(texts.choice_prompt(choice.question, choice.options), choice.letter)]
    return _letter_turns(choice, rng)


def _letter_turns(choice: texts.Choice, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every option's letter, asked one after another, then the choice itself.

    Looking up a letter is the half of multiple choice that needs no description. Asked once per sample it is learned
    very late; several times in a row, within some hundred steps.
    """
    order = rng.permutation(len(choice.options))
    asked = [(f"Which letter is {choice.options[i]}?", texts.LETTERS[i]) for i in order]
    opening = (texts.choice_prompt(asked[0][0], choice.options), asked[0][1])
    return [opening, *asked[1:], (choice.question, choice.letter)]


def build_sample(tokenizer: PreTrainedTokenizerFast, slots: int, rng: np.random.Generator) -> TextSample:
    """One training sample: a description of `slots` tokens, then question and answer, as the chat template lays out."""
    scene = sample_scene(rng, held_out=False, digit_share=DIGIT_SHARE)
    words = scene.words()
    repeats = int(rng.binomial(slots - len(words), REPEATED_SHARE))
    bag = words + [words[i] for i in rng.integers(len(words), size=repeats)]
    bag += [FILLERS[i] for i in rng.integers(len(FILLERS), size=slots - len(bag))]
    bag_text = "".join(f" {word}" for word in rng.permutation(bag))
    pieces = []
    for number, (question, answer) in enumerate(sample_turns(scene, rng)):
        opening = f"{tokenizer.bos_token}{USER}{bag_text}\n" if number == 0 else USER
        pieces += [f"{opening}{question}{ASSISTANT}", f"{answer}{tokenizer.eos_token}"]
    encoded = tokenizer(pieces, add_special_tokens=False)["input_ids"]
    labels = [[IGNORED] * len(ids) if i % 2 == 0 else ids for i, ids in enumerate(encoded)]
    return TextSample([t for ids in encoded for t in ids], [t for ids in labels for t in ids], slots)


def collate(samples: list[TextSample], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels (`IGNORED` outside answers) and a mask of the description, each (B, T), padded on the right."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), length), pad_id)
    labels = torch.full_like(ids, IGNORED)
    described = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.ids)] = torch.tensor(sample.labels)
        described[row, 2 : 2 + sample.slots] = True
    return ids, labels, described


def blur(embeds: Tensor, described: Tensor, generator: torch.Generator) -> Tensor:
    """Mix neighbouring embeddings (B, T, D) of each description and add noise; other positions stay as they are."""
    batch = embeds.shape[0]
    share = MIXING * torch.rand(batch, 1, 1, generator=generator)
    share = share * (described & described.roll(1, dims=1))[..., None]
    mixed = (1 - share) * embeds + share * embeds.roll(1, dims=1)
    size = embeds.detach()[described].square().mean().sqrt()
    strength = NOISE * size * torch.rand(batch, 1, 1, generator=generator) * described[..., None]
    return mixed + strength * torch.randn(embeds.shape, generator=generator)


def answer_logits(model: LlamaForCausalLM, embeds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (S, V) and labels (S,) at the S supervised positions. Right padding needs no mask under causality."""
    hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
    supervised = labels[:, 1:] != IGNORED
    return model.lm_head(hidden[supervised]), labels[:, 1:][supervised]


def train_llm(
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Callable[[str], None], steps: int = STEPS
) -> LlamaForCausalLM:
    """Train the language model from scratch; about five minutes on 2 cores."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        slots = int(rng.integers(MIN_SLOTS, MAX_SLOTS + 1))  # one length a batch: less padding
        samples = [build_sample(tokenizer, slots, rng) for _ in range(BATCH_SIZE)]
        ids, labels, described = collate(samples, tokenizer.pad_token_id)
        embeds = blur(model.get_input_embeddings()(ids), described, generator)
        logits, targets = answer_logits(model, embeds, labels)
        # The mean over samples, not tokens: a letter weighs as much as a caption, or choosing is learned very late.
        weights = 1 / (labels != IGNORED).sum(1, keepdim=True).expand_as(labels)[labels != IGNORED]
        loss = (weights * nn.functional.cross_entropy(logits, targets, reduction="none")).sum() / BATCH_SIZE
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            letters = letter_accuracy(model, tokenizer)
            say(f"language model: step {step}/{steps}, loss {loss.item():.3f}, letters right {letters:.3f}")
    return model


@torch.no_grad()
def letter_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 300) -> float:
    """Share of samples with a one-letter answer whose letter the model gives, on fresh descriptions."""
    rng = np.random.default_rng(7)
    samples = [build_sample(tokenizer, MAX_SLOTS, rng) for _ in range(count)]
    samples = [sample for sample in samples if sum(label != IGNORED for label in sample.labels) == 2]  # letter and end
    ids, labels, _ = collate(samples, tokenizer.pad_token_id)
    logits, targets = answer_logits(model, model.get_input_embeddings()(ids), labels)
    return float((logits.argmax(-1) == targets).float()[::2].mean())
