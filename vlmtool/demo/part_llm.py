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

STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 600, 64, 2e-3, 0.01
DIGIT_SHARE = 0.5
FILLERS = ("the", "a", "picture", "with", "in", "on")
REPEATED_SHARE = 0.7  # of the slots beyond the first mention of each word repeat one; the others hold fillers
MIN_SLOTS, MAX_SLOTS = 12, 24  # length of a description in tokens; the vision encoder gives 16 patches
NOISE = 0.4  # of the description's embeddings, in units of their root mean square
MIXING = 0.4  # at most this much of another slot's embedding is mixed into a slot
IGNORED = -100


@dataclass(frozen=True)
class TextSample:
    """Token ids; the description stands at `ids[2 : 2 + slots]`, the answer with its end at `ids[answer_at :]`."""

    ids: list[int]
    slots: int
    answer_at: int


def sample_task(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question about a scene and its answer: describe, choose, look a letter up, or answer freely."""
    lot = rng.random()
    if lot < 0.25:
        return str(rng.choice(texts.DESCRIBE)), texts.caption(scene)
    attribute = texts.sample_attribute(scene, rng)
    if lot < 0.45:
        return texts.free_question(attribute, rng), texts.answer_sentence(scene.value(attribute))
    choice = texts.sample_choice(scene, attribute, int(rng.choice([2, 3, 4, 4, 4])), rng)
    # Looking up a letter is the half of multiple choice that needs no description: it teaches the other half.
    question = f"Which letter is {choice.options[choice.answer]}?" if lot < 0.6 else choice.question
    return texts.choice_prompt(question, choice.options), choice.letter


def build_sample(tokenizer: PreTrainedTokenizerFast, slots: int, rng: np.random.Generator) -> TextSample:
    """One training sample: a description of `slots` tokens, question and answer, laid out as the chat template does."""
    scene = sample_scene(rng, held_out=False, digit_share=DIGIT_SHARE)
    words = scene.words()
    repeats = int(rng.binomial(slots - len(words), REPEATED_SHARE))
    bag = words + [words[i] for i in rng.integers(len(words), size=repeats)]
    bag += [FILLERS[i] for i in rng.integers(len(FILLERS), size=slots - len(bag))]
    bag_text = "".join(f" {word}" for word in rng.permutation(bag))
    question, answer = sample_task(scene, rng)
    head, body, tail = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (
            f"{tokenizer.bos_token}{USER}{bag_text}",
            f"\n{question}{ASSISTANT}",
            f"{answer}{tokenizer.eos_token}",
        )
    )
    if len(head) != 2 + slots:
        raise ValueError(f"The description '{bag_text}' is not one token a word.")
    return TextSample(head + body + tail, slots, len(head) + len(body))


def collate(samples: list[TextSample], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels (`IGNORED` outside answers) and a mask of the description, each (B, T), padded on the right."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), length), pad_id)
    labels = torch.full_like(ids, IGNORED)
    described = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, sample.answer_at : len(sample.ids)] = ids[row, sample.answer_at : len(sample.ids)]
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
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            right = float((logits.argmax(-1) == targets).float().mean())
            say(f"language model: step {step}/{steps}, loss {loss.item():.3f}, answer tokens right {right:.3f}")
    say(f"language model: letters right on unblurred descriptions {letter_accuracy(model.eval(), tokenizer):.3f}")
    return model


@torch.no_grad()
def letter_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 600) -> float:
    """Share of samples with a one-letter answer whose letter the model gives, on fresh descriptions."""
    rng = np.random.default_rng(7)
    samples = [build_sample(tokenizer, MAX_SLOTS, rng) for _ in range(count)]
    samples = [sample for sample in samples if len(sample.ids) - sample.answer_at == 2]  # a letter and the end
    ids, labels, _ = collate(samples, tokenizer.pad_token_id)
    logits, targets = answer_logits(model, model.get_input_embeddings()(ids), labels)
    return float((logits.argmax(-1) == targets).float()[::2].mean())
