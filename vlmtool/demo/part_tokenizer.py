"""The demo's tokenizer: a byte-level BPE in which every attribute word, with its space, is one token."""

from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmtool.demo import texts
from vlmtool.demo.scenes import VALUES, sample_scene

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"  # tokens of their own: a prompt's ids are a prefix of the conversation's
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}\n"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _corpus(rng: np.random.Generator, scenes: int = 400) -> Iterable[str]:
    """Text that holds every word of the demo often enough to become one token."""
    for _ in range(scenes):
        scene = sample_scene(rng, held_out=False)
        yield texts.caption(scene)
        for attribute in texts.asked_attributes(scene):
            yield texts.answer_sentence(str(scene.value(attribute)))
            choice = texts.sample_choice(scene, attribute, 4, rng)
            yield texts.choice_prompt(choice.question, choice.options)
    for words in (*VALUES.values(), texts.DESCRIBE):
        for word in words:
            yield f"{word}? Which letter is {word}? " * 5


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(np.random.default_rng(0)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=512,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    for word in (word for words in VALUES.values() for word in words):
        if len(fast.encode(f" {word}", add_special_tokens=False)) != 1:
            raise ValueError(f"' {word}' is not one token. Give the corpus more of it in part_tokenizer.py.")
    return fast
