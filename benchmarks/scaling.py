"""Two processes that train together against two that train alone at the same time: what working together costs.

Both ways the machine does the same work, so that cores which share caches and memory slow both alike. One thread each.

    python benchmarks/scaling.py --assets DIR --repeats 3
"""

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

import assets
from train_throughput import Work, command, environment, finished

PORT = "29877"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, help="folder with model/, llava.json and pictures; made unless given")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--strategy", default="ddp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.assets is None:
            assets.make(Path(name) / "assets", 128)
        sets = ("data.sampler='length'", f"runtime.strategy={arguments.strategy!r}")
        work = Work((arguments.assets or Path(name) / "assets").resolve(), arguments.steps, sets=sets)
        ratio = compare(work, Path(name), arguments.repeats)
    print(f"two processes together: {ratio:.3f} of two alone, median of {arguments.repeats}")


def compare(work: Work, folder: Path, repeats: int) -> float:
    """Samples per second of one training in two processes, by those of two in one each."""
    ratios = []
    for turn in range(repeats):
        words, out = command(work, "random", folder, f"_together{turn}")
        done = subprocess.run(
            words, env=environment(NPROC_PER_NODE="2", PORT=PORT), capture_output=True, text=True, check=False
        )
        together = finished(done.returncode, done.stderr, out)["samples_per_s"]
        both = [command(work, "random", folder, f"_alone{turn}_{number}") for number in range(2)]
        running = [
            subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for words, _ in both
        ]
        said = [process.communicate()[1] for process in running]
        figures = [
            finished(process.returncode, text, out) for process, text, (_, out) in zip(running, said, both, strict=True)
        ]
        alone = sum(one["samples_per_s"] for one in figures)
        print(f"{turn + 1}. together {together:.2f} samples/s, alone {alone:.2f}", flush=True)
        ratios.append(together / alone)
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
