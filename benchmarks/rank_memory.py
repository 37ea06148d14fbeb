"""Memory of one and of two training processes that share a frozen language model of about 0.9 GB of random weights.

RSS counts a page in every process that has it, PSS in equal shares: the sum of PSS is what the machine gives. Each
figure is from the moment at which that sum was highest, loading included. "no LLM" is what Python, torch and the small
parts take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from data_startup import VOCABULARY, make_images, make_tokenizer
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

PORT = 29790
RECIPE = "llava_vicuna_7b_v15_pretrain"  # the projector is trained, all else is frozen
SENTENCE = "A sentence of a few words, said of a picture."


@dataclass(frozen=True)
class Peak:
    """Bytes of each process, when all together took the most."""

    rss: list[int]
    uss: list[int]
    pss: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="of the language model, 51 MB each in float32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder unless given")
    arguments = parser.parse_args()
    stored = {"no LLM": (1, 64, torch.float32), "float32": (arguments.layers, 1024, torch.float32),
              "bfloat16": (arguments.layers, 1024, torch.bfloat16)}  # fmt: skip
    print(f"{'LLM stored as':<15}{'file':>9}{'ranks':>7}{'RSS each':>18}{'USS each':>18}{'PSS together':>14}")
    with tempfile.TemporaryDirectory(prefix="rank_memory_", dir=arguments.folder) as name:
        folder = Path(name)
        make_small_parts(folder)
        for kind, (layers, width, dtype) in stored.items():
            llm = folder / kind.replace(" ", "_")
            make_llm(llm, layers, width, dtype)
            for ranks in (1, 2):
                peak = measure(command(folder, llm, ranks, arguments.steps), ranks)
                size = sum(file.stat().st_size for file in llm.glob("*.safetensors"))
                print(
                    f"{kind:<15}{size / 1e6:>6,.0f} MB{ranks:>7}{megabytes(peak.rss):>18}{megabytes(peak.uss):>18}"
                    f"{sum(peak.pss) / 1e6:>11,.0f} MB"
                )


def megabytes(values: list[int]) -> str:
    """`812, 640 MB`."""
    return f"{', '.join(f'{value / 1e6:,.0f}' for value in values)} MB"


def make_small_parts(folder: Path) -> None:
    """Everything but the language model: encoder, tokenizer, pictures, records."""
    make_tokenizer([SENTENCE]).save_pretrained(folder / "tokenizer")
    encoder = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=32, patch_size=16
    )
    CLIPVisionModel(encoder).save_pretrained(folder / "encoder")
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder / "encoder")
    (image,) = make_images(folder / "images", 1)
    turns = [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": SENTENCE}]
    records = [{"id": str(number), "image": image, "conversations": turns} for number in range(16)]
    (folder / "data.json").write_text(json.dumps(records))


def make_llm(folder: Path, layers: int, width: int, dtype: torch.dtype) -> None:
    """A Llama of random weights with the tokenizer beside it."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    for file in (folder.parent / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def command(folder: Path, llm: Path, ranks: int, steps: int) -> list[str]:
    """A training of the projector, two samples a step."""
    values = {
        "llm.path": str(llm), "vision_encoder.path": str(folder / "encoder"), "data.path": str(folder / "data.json"),
        "data.image_folder": str(folder / "images"), "data.num_workers": 0, "schedule.batch_size": 2 // ranks,
        "schedule.accumulation": 1, "schedule.max_steps": steps,
    }  # fmt: skip
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value!r}")]
    work_dir = folder / f"run_{llm.name}_{ranks}"
    return [sys.executable, "-m", "vlmtool", "train", RECIPE, "--work-dir", str(work_dir), *sets]


def measure(words: list[str], ranks: int) -> Peak:
    """Run a training and look at its processes' memory until it ends."""
    environment = {**os.environ, "NPROC_PER_NODE": str(ranks), "PORT": str(PORT)}
    peak = Peak([], [], [])
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(words, env=environment, stdout=said, stderr=said) as run:
            while run.poll() is None:
                now = look(psutil.Process(run.pid), ranks)
                peak = max(peak, now, key=lambda one: sum(one.pss))
                time.sleep(0.1)
        said.seek(0)
        if run.returncode:
            sys.exit(f"{said.read()}\nThe training ended with {run.returncode}.")
    return peak


def look(run: psutil.Process, ranks: int) -> Peak:
    """The training processes as they are now; the launcher of several is none of them."""
    try:
        family = [child for child in run.children(recursive=True) if "LOCAL_RANK" in child.environ()]
        sizes = [process.memory_full_info() for process in (family if ranks > 1 else [run])]
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # one just ended
        return Peak([], [], [])
    return Peak([size.rss for size in sizes], [size.uss for size in sizes], [size.pss for size in sizes])


if __name__ == "__main__":
    main()
