"""How long a training takes to start on a large data file: 665,000 generated records in a JSON array of 1.0 GB.

Tokenizer, text, parts and pictures are made here, from a seed; everything is removed again. The pictures are links to
a few small ones, so that each is looked up and opened under a name of its own, as a data set's are.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # by frequency
VOCABULARY = 32_000
IMAGE_SIZE, PATCH_SIZE = 336, 14  # 576 tokens an image, as in LLaVA-1.5
IMAGES_PER_RECORD = 0.5  # LLaVA's mixture asks about each picture twice
LINKS_PER_FOLDER = 1000
SENTENCES = 11  # of an answer, at most; 350 tokens a record
TRAIN = [sys.executable, "-m", "vlmtool", "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=665_000)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data_startup_", dir=arguments.folder) as name:
        folder = Path(name)
        recipe, tokens = make_all(folder, arguments.records)
        few = folder / "few.json"
        write_records(few, 100, make_sentences(random.Random(1), 100), ["0000/00000.jpg"], random.Random(1))
        size = (folder / "data.json").stat().st_size
        cores = len(os.sched_getaffinity(0))
        print(f"{arguments.records:,} records, {size / 1e9:.2f} GB, {tokens:.0f} text tokens each; {cores} cores")
        print(f"{'':<34}{'seconds':>9}{'CPU':>7}{'main, MB':>10}{'all, MB':>9}")
        one_step = [
            *TRAIN,
            str(recipe),
            "--set",
            "schedule.max_steps=1",
            "--set",
            f"data.tables={str(folder / 'tables')!r}",
        ]
        for number, (what, words, processes) in enumerate([
            ("100 records, one step", [*one_step, "--set", f"data.path={str(few)!r}"], 1),
            ("first start, one step", one_step, 1),
            ("later start, one step", one_step, 1),
            ("later, two processes, one step", one_step, 2),
            ("dry run", [*TRAIN, str(recipe), "--dry-run"], 1),
        ]):  # fmt: skip
            seconds, peaks = measure([*words, "--work-dir", str(folder / f"run{number}")], processes)
            print(f"{what:<34}{seconds:9.1f}{peaks['cpu']:7.0f}{peaks['main'] / 1e6:10,.0f}{peaks['all'] / 1e6:9,.0f}")


def make_all(folder: Path, num_records: int) -> tuple[Path, float]:
    """Parts, pictures, records and a recipe; returns the recipe and the mean text tokens of a record."""
    draw = random.Random(0)
    sentences = make_sentences(draw, 50_000)
    tokenizer = make_tokenizer(sentences)
    make_parts(folder, tokenizer)
    images = make_images(folder / "images", max(1, int(num_records * IMAGES_PER_RECORD)))
    texts = write_records(folder / "data.json", num_records, sentences, images, draw)
    tokens = sum(len(tokenizer.encode(text)) for text in texts) / len(texts)
    sections = {
        "llm": {"path": str(folder / "llm"), "template": "vicuna", "freeze": True},
        "vision_encoder": {"path": str(folder / "encoder")},
        "projector": {},
        "data": {
            "path": str(folder / "data.json"), "image_folder": str(folder / "images"), "image_position": "front"
        },
        "schedule": {"lr": 1e-3, "batch_size": 1, "save_every": 500},
    }  # fmt: skip
    recipe = folder / "recipe.py"
    recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in sections.items()))
    return recipe, tokens


def make_sentences(draw: random.Random, number: int) -> list[str]:
    """Sentences of 50,000 words, as frequent and rare as English ones are (Zipf-Mandelbrot)."""
    weights = list(itertools.accumulate(range(len(LETTERS), 0, -1)))
    lengths = (1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 8)
    words = ["".join(draw.choices(LETTERS, cum_weights=weights, k=draw.choice(lengths))) for _ in range(50_000)]
    frequencies = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    parts = [" ".join(draw.choices(words, cum_weights=frequencies, k=draw.randint(3, 9))) for _ in range(2 * number)]
    return [f"{first.capitalize()}, {second}." for first, second in zip(parts[::2], parts[1::2], strict=True)]


def make_tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 32,000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=4096
    )


def make_parts(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A language model and an encoder, narrow: only their configs are read."""
    tokenizer.save_pretrained(folder / "llm")
    llm = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    encoder = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )  # fmt: skip
    CLIPVisionModel(encoder).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil().save_pretrained(folder / "encoder")


def make_images(folder: Path, number: int) -> list[str]:
    """Names of `number` JPEGs below `folder`; each file of a folder of them is a link to its first."""
    names = []
    for start in range(0, number, LINKS_PER_FOLDER):
        part = folder / f"{start // LINKS_PER_FOLDER:04d}"
        part.mkdir(parents=True)
        first = part / "00000.jpg"
        Image.new("RGB", (640, 480), (start % 255, 90, 30)).save(first, quality=85)
        names.append(f"{part.name}/{first.name}")
        for place in range(1, min(LINKS_PER_FOLDER, number - start)):
            name = f"{place:05d}.jpg"
            os.link(first, part / name)
            names.append(f"{part.name}/{name}")
    return names


def write_records(path: Path, number: int, sentences: list[str], images: list[str], draw: random.Random) -> list[str]:
    """Conversations of three questions about an image; returns the text of the first thousand."""
    texts = []
    with open(path, "w", encoding="utf-8") as file:
        for place in range(number):
            turns = []
            for turn in range(3):
                tag = "<image>\n" if turn == 0 else ""
                turns.append({"from": "human", "value": tag + draw.choice(sentences)})
                turns.append({"from": "gpt", "value": " ".join(draw.choices(sentences, k=draw.randint(2, SENTENCES)))})
            image = images[place % len(images)]
            record = {"id": f"{place:012d}", "image": image, "conversations": turns}
            file.write(("[" if place == 0 else ", ") + json.dumps(record))
            if place < 1000:
                texts.append("\n".join(turn["value"] for turn in turns))
        file.write("]")
    return texts


def measure(command: list[str], processes: int) -> tuple[float, dict[str, float]]:
    """Run a command; returns its seconds, the peaks of its memory in bytes and of its CPU time.

    CPU time is what counts on a machine that does something else, too: two idle cores would take half of it.
    Memory is that of the process that was started or, of several, of the largest; and of all, what they share once.
    """
    peaks = {"main": 0.0, "all": 0.0, "cpu": 0.0}
    several = {"NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1"} if processes > 1 else {}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **several}) as process:
            main = psutil.Process(process.pid)
            while process.poll() is None:
                note_use(main, peaks, processes > 1)
                time.sleep(0.5)
        seconds = time.monotonic() - start
        output.seek(0)
        if process.returncode:
            sys.exit(f"{output.read()}\n{' '.join(command)} ended with {process.returncode}.")
    return seconds, peaks


def note_use(main: psutil.Process, peaks: dict[str, float], largest: bool) -> None:
    """Raise `peaks` to what the process and those below it hold and have used by now."""
    try:
        family = [main, *main.children(recursive=True)]
        memory = [process.memory_full_info() for process in family]
        times = [process.cpu_times() for process in family]
    except psutil.NoSuchProcess:  # it just ended
        return
    now = {
        "main": max(one.rss for one in memory) if largest else memory[0].rss,
        "all": sum(one.pss for one in memory),
        "cpu": sum(one.user + one.system for one in times),
    }
    for name, value in now.items():
        peaks[name] = max(peaks[name], value)


if __name__ == "__main__":
    main()
