"""What the training benchmarks train: a small LLaVA with random weights, pictures, and records as long as real ones.

    python benchmarks/assets.py DIR --count 128

`DIR/model` is a `LlavaForConditionalGeneration` with its processor, `DIR/llava.json` the records. The shape is 336
pixels, 576 image tokens, a vocabulary of 32,000: small layers, but the proportions of LLaVA-1.5. With
`--large-encoder` the encoder is most of a step, as SigLIP's largest is beside a language model of half a billion.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from mixture import Drawn, draw
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH = 336, 14
PATCHES = (SIDE // PATCH) ** 2
VOCABULARY = 32_000
WORDS = [a + b for a in ("ba", "ke", "li", "mo", "nu", "ra", "so", "ti") for b in ("de", "fa", "go", "hi", "ju", "pe")]
PICTURES = 32
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: {{ message['content'] }} "
    "{% else %}ASSISTANT: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=128, help="records")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="that are drawn; records share them")
    parser.add_argument("--large-encoder", action="store_true")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.count, arguments.pictures, arguments.large_encoder)


def make(folder: Path, count: int, pictures: int = PICTURES, large_encoder: bool = False) -> None:
    """Write model, pictures and records."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        draw_picture(number).save(folder / "images" / f"{number}.jpg", quality=90)
    records = [record(number, one, pictures) for number, one in enumerate(draw(count, PATCHES))]
    (folder / "llava.json").write_text(json.dumps(records))
    tokenizer = make_tokenizer()
    make_model(tokenizer, large_encoder).save_pretrained(folder / "model")
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        processor, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder / "model")  # fmt: skip


def draw_picture(number: int) -> Image.Image:
    """Soft colours, in the proportions of a photograph."""
    colours = torch.randint(0, 255, (6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    return Image.fromarray(colours.numpy()).resize((640, 480), Image.Resampling.BICUBIC)


def record(number: int, drawn: Drawn, pictures: int) -> dict[str, Any]:
    """One question and one answer, of about as many tokens as were drawn: a word is a token."""
    chooser = random.Random(number)
    asked = max(1, drawn.text - drawn.supervised - 8)
    question, answer = (" ".join(chooser.choices(WORDS, k=k)) for k in (asked, max(1, drawn.supervised - 1)))
    picture = {"image": f"images/{number % pictures}.jpg"} if drawn.pictures else {}
    human = {"from": "human", "value": "<image>\n" * drawn.pictures + question}
    return {"id": str(number), **picture, "conversations": [human, {"from": "gpt", "value": answer}]}


def num_tokens(record: dict[str, Any]) -> int:
    """Of a record, but for the dozen that the template adds."""
    words = sum(len(turn["value"].split()) for turn in record["conversations"])
    return words + PATCHES * ("image" in record)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair encoding in which each of `WORDS` is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(["USER: ASSISTANT:", *WORDS])] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048,
        extra_special_tokens={"image_token": "<image>"}, chat_template=TEMPLATE,
    )  # fmt: skip


def make_model(tokenizer: PreTrainedTokenizerFast, large_encoder: bool) -> LlavaForConditionalGeneration:
    """About 20 million weights, 16 of them in the two vocabulary tables."""
    torch.manual_seed(0)
    width, blocks = (512, 10) if large_encoder else (128, 4)
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks, num_attention_heads=width // 32,
        image_size=SIDE, patch_size=PATCH,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, vocab_size=VOCABULARY,
        max_position_embeddings=4096, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token, image_seq_length=PATCHES)
    )


if __name__ == "__main__":
    main()
