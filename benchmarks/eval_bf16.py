"""How many answers bfloat16 changes: one model, the same rows in float32 and in bfloat16, at batch sizes 1 and 16."""

import argparse
import tempfile
from itertools import combinations
from pathlib import Path

import torch

from vlmtool.chat.generator import GenerationSettings
from vlmtool.chat.load import load_chat_model
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.run import answer_all

SETTINGS = GenerationSettings(max_new_tokens=8)
DEMO_TABLE = Path("work_dirs/demo/data/mmbench.tsv")
DTYPES, BATCH_SIZES = ("fp32", "bf16"), (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="work_dirs/demo/merged", help="a model folder")
    parser.add_argument("table", nargs="?", type=Path, default=DEMO_TABLE, help="a MMBench file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.table == DEMO_TABLE and not DEMO_TABLE.is_file():
        print(f"left out: there is no {DEMO_TABLE}. Run `make demo` first, or name a model folder and a table.")
        return
    torch.set_num_threads(arguments.threads)
    benchmark = MMBench(arguments.table)
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            generator = load_chat_model(arguments.model, torch_dtype=dtype, device=arguments.device)
            for size in BATCH_SIZES:
                name = f"{dtype}, batch size {size}"
                answers[name] = answer_all(benchmark, generator, SETTINGS, Path(folder) / name, size)
    for name, said in answers.items():
        scores = benchmark.score(said).scores
        shares = (100 * scores[way]["Overall"] for way in ("circular", "vanilla_all"))
        print("{}: CircularEval {:.2f}, all rows {:.2f}".format(name, *shares))
    for one, other in combinations(answers, 2):
        differ = sum(answers[one][index] != answers[other][index] for index in answers[one])
        print(f"{one} / {other}: {differ} of {len(benchmark.rows)} answers differ ({differ / len(benchmark.rows):.2%})")


if __name__ == "__main__":
    main()
