"""Options that several commands share: each is described once."""

from pathlib import Path
from typing import Annotated

import typer

from vlmtool.utils.errors import UsageError, did_you_mean

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")

Model = Annotated[
    str | None, typer.Argument(help="A model folder that vlmtool wrote, or the LLM (local folder or hub id).")
]
Predictions = Annotated[
    str | None,
    typer.Option(help="Score these answers without a model: JSON Lines, JSON, TSV or xlsx."),
]
Llava = Annotated[str | None, typer.Option(help="Folder or hub id with projector and adapters.")]
VisualEncoder = Annotated[str | None, typer.Option(help="The vision encoder, where the folder names none.")]
VisualSelectLayer = Annotated[int | None, typer.Option(help="Hidden state of the encoder to use.")]
PromptTemplate = Annotated[str | None, typer.Option(help="Name of the chat template.")]
StopWords = Annotated[list[str] | None, typer.Option(help="End an answer here; may be given again.")]
TorchDtype = Annotated[str | None, typer.Option(help="fp16, bf16, fp32 or auto.")]
Bits = Annotated[int | None, typer.Option(help="Load the LLM in 4 or 8 bits.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer, in tokens; the benchmark's own limit unless given.")
]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers (answers are greedy).")]
Launcher = Annotated[
    str, typer.Option(help="What started this process: none, pytorch (torchrun), slurm (srun) or mpi (mpirun).")
]
DeepSpeed = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="zero1, zero2, zero2_offload, zero3, zero3_offload or a JSON file."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go on where an adapter was trained on another base, if its shapes fit.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model brings along or names.")
]
BatchSize = Annotated[str, typer.Option(help="Questions asked at once; auto grows to the memory.")]

Score = Annotated[
    str, typer.Option(help="generate: the model writes its answer; likelihood: it chooses the most likely option.")
]


def check_launcher(launcher: str) -> None:
    """A name that is known."""
    if launcher not in LAUNCHERS:
        raise UsageError(
            f"--launcher {launcher}: unknown.{did_you_mean(launcher, LAUNCHERS)} Use one of: {', '.join(LAUNCHERS)}."
        )


def strategy(deepspeed: str | None) -> list[str]:
    """What `--deepspeed` changes in a recipe."""
    return [f"runtime.strategy={deepspeed!r}"] if deepspeed is not None else []


def existing(option: str, value: str, advice: str, is_folder_fine: bool = False) -> Path:
    """A path that must be there."""
    if not value:
        raise UsageError(f"{option} is missing. {advice}")
    path = Path(value)
    if path.is_file() or (is_folder_fine and path.is_dir()):
        return path
    what = "is a folder, not a file" if path.is_dir() else "no such file" + (" or folder" if is_folder_fine else "")
    raise UsageError(f"{option} {value}: {what}. {advice}")


def given_predictions(value: str | None) -> Path | None:
    """The file of --predictions, which must be there if it is named."""
    return existing("--predictions", value, "Give JSON Lines, JSON, TSV or xlsx.") if value else None


def as_batch_size(text: str) -> int | None:
    """A number, or None for "auto"."""
    if text == "auto":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--batch-size {text}: neither a number of 1 or more nor auto.")


def warn_unused(option: str, value: object, where: str = "here") -> None:
    """An option that is taken and does nothing."""
    if value is not None:
        typer.echo(f"Warning: {option} has no effect {where}.", err=True)
