"""The demo with every projector and at other resolutions: tokens per image, and what the model then answers.

Each variant is trained through both stages of the demo's recipes by the real commands (minutes each), and scored.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vlmtool.engine.planned import planned_encoder, planned_projector, planned_transform
from vlmtool.evaluation.report import METRICS_FILE
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.hub import local_folder

PROJECTORS = "vlmtool.models.projectors"
STAGE_LR = "LR"  # stands for the learning rate that a stage gives the projector
NATIVE_SIDE = 64  # px, of the demo's encoder


@dataclass(frozen=True)
class Variant:
    """What differs from the demo's recipes."""

    name: str
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, module: str, cls_name: str, lr: str = STAGE_LR, **options: int) -> "Variant":
        """Another projector."""
        given = "".join(f", {key}={value}" for key, value in options.items())
        return cls(name, (f"projector=dict(type='{PROJECTORS}.{module}.{cls_name}'{given}, lr={lr})",))


# 16 patches and an LLM of width 128: sizes are cut down from those of the real recipes.
VARIANTS = (
    Variant("mlp, the demo's own"),
    Variant.of("linear", "linear", "LinearProjector"),
    Variant.of("xdp", "xdp", "XDPProjector"),
    Variant.of("ldp", "ldp", "LDPProjector"),
    Variant.of("ldpv2, 2 x 2", "ldpv2", "LDPv2Projector", grid_size=2),
    Variant.of("pixel shuffle", "pixel_shuffle", "PixelShuffleProjector"),
    Variant.of(
        "q-former, 8 queries", "qformer", "QFormerProjector", num_queries=8, hidden_size=192, num_hidden_layers=4,
        num_attention_heads=6, intermediate_size=512, lr="1e-3",
    ),
    Variant.of(
        "perceiver, 8 latents", "resampler", "PerceiverResampler", num_latents=8, depth=2, num_heads=6, lr="1e-3"
    ),
    Variant("mlp, 96 px", ("vision_encoder.image_size=96",)),
    Variant("mlp, tiles", ("vision_encoder.tiles=((1, 2), (2, 1), (2, 2))", "data.pad_to_square=False")),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo_parts"))
    parser.add_argument("--only", nargs="*", help="names of variants; all unless given")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the demo's steps, to try the script")
    arguments = parser.parse_args()
    data = arguments.work_dir / "data"
    if not (data / "mmbench.tsv").is_file():
        run(sys.executable, "-m", "vlmtool.demo.data", str(data), "--seed", "0")
    print(f"{'variant':<22}{'tokens':>7}{'projector':>12}{'aligned':>9}{'finetuned':>11}{'vanilla':>9}", flush=True)
    for variant in VARIANTS:
        if not arguments.only or variant.name in arguments.only:
            folder = arguments.work_dir / variant.name.replace(" ", "_").replace(",", "")
            print(row(variant, folder, data, arguments.steps), flush=True)


def row(variant: Variant, folder: Path, data: Path, share: float) -> str:
    """Train, convert and score one variant; what is there from an earlier run is not done again."""
    scores = {}
    for stage in ("pretrain", "finetune"):
        given = overrides(variant, stage, folder, data, share)
        target, results = folder / f"{stage}_hf", folder / f"{stage}_mmbench"
        if not (results / METRICS_FILE).is_file():
            resume = ["--resume"] if (folder / stage / "last_checkpoint").is_file() else []
            vlmtool("train", f"demo_{stage}", "--work-dir", str(folder / stage), *given, *resume)
            last = folder / stage / (folder / stage / "last_checkpoint").read_text().strip()
            if not target.is_dir():
                vlmtool("convert", "pth_to_hf", f"demo_{stage}", str(last), str(target), *given)
            vlmtool(
                "mmbench", str(target), "--data-path", str(data / "mmbench.tsv"), "--work-dir", str(results),
                "--batch-size", "64",
            )  # fmt: skip
        scores[stage] = json.loads((results / METRICS_FILE).read_text())["scores"]
    tokens, parameters = sizes(variant, overrides(variant, "pretrain", folder, data, share))
    circular = [100 * scores[stage]["circular"]["Overall"] for stage in ("pretrain", "finetune")]
    vanilla = 100 * scores["finetune"]["vanilla_all"]["Overall"]
    return f"{variant.name:<22}{tokens:>7}{parameters:>12,}{circular[0]:>9.1f}{circular[1]:>11.1f}{vanilla:>9.1f}"


def overrides(variant: Variant, stage: str, folder: Path, data: Path, share: float) -> list[str]:
    """`--set` arguments of a stage; a projector keeps the learning rate that the stage gives it."""
    section = load_recipe(f"demo_{stage}")
    values = [text.replace(STAGE_LR, repr(section.projector.lr)) for text in variant.overrides]
    values += [f"data.path={data}/{stage}.json", f"data.image_folder={data}/images"]
    if stage == "finetune":
        values += [f"data.val_path={data}/val.json", f"init_from={folder}/pretrain"]
    if share < 1:
        values.append(f"schedule.max_steps={max(2, int(share * (section.schedule.max_steps or 1)))}")
    return [argument for value in values for argument in ("--set", value)]


def sizes(variant: Variant, given: list[str]) -> tuple[str, int]:
    """Tokens of a square picture, or of a wide one where it is more; parameters of the projector."""
    recipe = load_recipe("demo_pretrain", given[1::2])
    encoder_folder = local_folder(recipe.vision_encoder.path, "vision_encoder.path")
    llm = json.loads((local_folder(recipe.llm.path, "llm.path") / "config.json").read_text())
    projector = planned_projector(recipe, planned_encoder(recipe, encoder_folder).hidden_size, llm["hidden_size"])
    views = planned_transform(recipe, encoder_folder).views
    counts = sorted({views.num_tokens(size) for size in ((NATIVE_SIDE, NATIVE_SIDE), (3 * NATIVE_SIDE, NATIVE_SIDE))})
    return "-".join(map(str, counts)), sum(parameter.numel() for parameter in projector.parameters())


def vlmtool(*arguments: str) -> None:
    run(sys.executable, "-m", "vlmtool", *arguments)


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
