"""Trains the demo's two parts, each by itself: `python -m vlmtool.demo.build_parts [OUT]`.

Writes OUT/llm (with its tokenizer) and OUT/vision_encoder (with its image processor) as Hugging Face folders. The parts
in vlmtool/demo/assets were made by it. The language model never sees a picture and the vision encoder never sees text:
connecting them is what the demo's two training stages do.
"""

import argparse
import time
from pathlib import Path

import torch

from vlmtool.demo.part_llm import train_llm
from vlmtool.demo.part_tokenizer import build_tokenizer
from vlmtool.demo.part_vision import image_processor, train_vision_encoder

ASSETS = Path(__file__).parent / "assets"
STORED_DTYPE = torch.float16  # halves the files


def build_parts(out_dir: Path, seed: int, only: str | None = None) -> None:
    """Train and save the parts; `only` names one of "llm" and "vision_encoder"."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", flush=True)

    if only in (None, "vision_encoder"):
        encoder = train_vision_encoder(seed, say)
        encoder.to(STORED_DTYPE).save_pretrained(out_dir / "vision_encoder")
        image_processor().save_pretrained(out_dir / "vision_encoder")
    if only in (None, "llm"):
        tokenizer = build_tokenizer()
        train_llm(tokenizer, seed, say).to(STORED_DTYPE).save_pretrained(out_dir / "llm")
        tokenizer.save_pretrained(out_dir / "llm")
    size = sum(file.stat().st_size for file in out_dir.rglob("*") if file.is_file())
    say(f"{out_dir} holds {size / 2**20:.1f} MB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo's vision encoder and language model.")
    parser.add_argument("out", nargs="?", type=Path, default=ASSETS, help="folder for the parts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("llm", "vision_encoder"), help="train one part and leave the other")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    build_parts(arguments.out, arguments.seed, arguments.only)


if __name__ == "__main__":
    main()
