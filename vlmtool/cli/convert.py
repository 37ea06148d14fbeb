"""`vlmtool convert`: a training's checkpoint to a model folder, adapters into their bases, legacy to native classes."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from vlmtool.cli.options import TrustRemoteCode
from vlmtool.utils.errors import UsageError
from vlmtool.utils.files import no_file
from vlmtool.utils.terminal import clean

_SHARD = typer.Option(metavar="SIZE", help="Largest weight file, such as 2GB or 500MB.")
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMGT]B", re.IGNORECASE)
_FORCE = typer.Option("--force", help="Go on where parts are mixed up but could work; it is recorded.")
_TRUST = " --trust-remote-code"
_ASK = "--image PICTURE.jpg --question 'What is in the picture?'"


def pth_to_hf(
    config: Annotated[str, typer.Argument(help="Recipe of the training: a shipped name or a file.")],
    pth: Annotated[Path, typer.Argument(help="Its checkpoint, such as work_dirs/NAME/iter_100.pth.")],
    save_path: Annotated[Path, typer.Argument(help="Folder to write; replaced where a conversion wrote it.")],
    save_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="vlmtool, huggingface, official or xtuner (docs/exports.md).")
    ] = "vlmtool",
    fp32: Annotated[bool, typer.Option("--fp32", help="Write float32 instead of the type of the bases.")] = False,
    max_shard_size: Annotated[str, _SHARD] = "5GB",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be given several times."),
    ] = None,
    cfg_options: Annotated[list[str] | None, typer.Option(hidden=True, help="XTuner's name of --set.")] = None,
    force: Annotated[bool, _FORCE] = False,
    trust_remote_code: TrustRemoteCode = False,
    safe_serialization: Annotated[bool, typer.Option("--safe-serialization", hidden=True)] = False,
) -> None:
    """Turn a training's .pth into a model folder that vlmtool, transformers and peft load, or that other tools do."""
    _check_size(max_shard_size)
    if not pth.is_file():
        raise UsageError(f"PTH: {no_file(pth)}.\nRun folders hold iter_N.pth, the newest in last_checkpoint.")
    from vlmtool.convert.pth_to_hf import check_format
    from vlmtool.convert.pth_to_hf import pth_to_hf as convert
    from vlmtool.recipe.load import load_recipe

    check_format(save_format)
    allowed = ["runtime.trust_remote_code=True"] if trust_remote_code else []
    recipe = load_recipe(config, [*(set_ or []), *(cfg_options or []), *allowed])
    convert(recipe, pth, save_path, save_format, fp32, max_shard_size, force)
    _report(save_path)
    if save_format != "vlmtool":
        _print_opening(save_path, recipe.llm.quantization if save_format != "xtuner" else None)
        return
    trust = _TRUST if recipe.runtime.trust_remote_code or recipe.own_classes else ""
    steps = [f"vlmtool chat {_quoted(save_path)} {_ASK}{trust}"]
    adapters = [save_path / name for name in ("llm_adapter", "visual_encoder_adapter")]
    if recipe.llm.prefix is None and any(folder.is_dir() for folder in adapters):
        merged = save_path.with_name(f"{save_path.resolve().name}_merged")
        steps.append(f"vlmtool convert merge {_quoted(save_path)} {_quoted(merged)}{trust}")
    _print_next(steps)


def merge(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="BASE ADAPTER SAVE_PATH | FOLDER SAVE_PATH", help="One part, or a whole model folder."),
    ],
    is_clip: Annotated[bool, typer.Option("--is-clip", help="BASE is an image encoder.")] = False,
    device: Annotated[str, typer.Option(help="Where to merge: cpu, cuda or auto.")] = "auto",
    max_shard_size: Annotated[str, _SHARD] = "5GB",
    force: Annotated[bool, _FORCE] = False,
    trust_remote_code: TrustRemoteCode = False,
    safe_serialization: Annotated[bool, typer.Option("--safe-serialization", hidden=True)] = False,
) -> None:
    """Merge an adapter into its base, or every adapter of a model folder into its part."""
    if len(paths) not in (2, 3):
        raise UsageError(
            f"convert merge takes 2 or 3 paths, not {len(paths)}.\n"
            "Give BASE ADAPTER SAVE_PATH for one part, or FOLDER SAVE_PATH for a whole model folder."
        )
    if device not in ("cpu", "cuda", "auto"):
        raise UsageError(f"--device {device}: not known.\nIt takes cpu, cuda or auto.")
    if is_clip and len(paths) == 2:
        raise UsageError(
            "--is-clip goes with BASE ADAPTER SAVE_PATH.\nA model folder knows its parts: drop the option."
        )
    _check_size(max_shard_size)
    from vlmtool.convert.merge import merge_folder, merge_part

    save_path = Path(paths[-1])
    if len(paths) == 2:
        merge_folder(_folder_or_hub_id(paths[0]), save_path, device, max_shard_size, force, trust_remote_code)
        steps = [f"vlmtool chat {_quoted(save_path)} {_ASK}"]
    else:
        base, adapter = paths[:2]
        merge_part(base, adapter, save_path, is_clip, device, max_shard_size, force, trust_remote_code)
        steps = [_use_part(save_path, Path(adapter).resolve().parent)]
    _report(save_path)
    _print_next([f"{step}{_TRUST if trust_remote_code else ''}" for step in steps])


def native(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Folder or hub id of a checkpoint with remote code.")],
    save_path: Annotated[Path, typer.Argument(help="Folder to write; replaced where a conversion wrote it.")],
    max_shard_size: Annotated[str, _SHARD] = "5GB",
) -> None:
    """Write a checkpoint whose authors ship code of their own as its native transformers class; none of it is run."""
    _check_size(max_shard_size)
    from vlmtool.convert.native import convert_native

    convert_native(src, save_path, max_shard_size)
    _report(save_path)
    _print_next([f"vlmtool chat {_quoted(save_path)}"])


def _folder_or_hub_id(name: str) -> Path:
    """The model folder of a path that is there, or of a hub id."""
    from vlmtool.utils.hub import is_hub_id, local_folder

    return Path(name) if Path(name).exists() or not is_hub_id(name) else local_folder(name, "FOLDER")


def _use_part(save_path: Path, folder: Path) -> str:
    """The command that uses a merged part; `folder` may be the model folder of its adapter."""
    from vlmtool.models.manifest import FILE_NAME, read_part_manifest

    manifest = read_part_manifest(save_path)
    llava = _quoted(folder) if (folder / FILE_NAME).is_file() else "FOLDER"
    if manifest is not None and manifest.part == "vision_encoder":
        return f"vlmtool chat --llava {llava} --visual-encoder {_quoted(save_path)} {_ASK}"
    return f"vlmtool chat {_quoted(save_path)} --llava {llava} {_ASK}"


def _check_size(size: str) -> None:
    if not _SIZE.fullmatch(size.strip()):
        raise UsageError(f"--max-shard-size {size}: not a size.\nGive a number with KB, MB, GB or TB, such as 5GB.")


def _report(folder: Path) -> None:
    """What was written where, with sizes."""
    print(f"Wrote {clean(str(folder))} ({_size_of(folder)})")
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    for entry in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        print(clean(f"  {entry.name}/  {_size_of(entry)}"))
    print(clean(f"  {', '.join(sorted(file.name for file in files))}"))


def _print_next(commands: list[str]) -> None:
    print("Next:")
    for command in commands:
        print(f"  {command}")


def _print_opening(folder: Path, quantization: str | None) -> None:
    """Where it is said how a folder for other tools is opened.

    Args:
        quantization: of the LLM in training, where its adapter was merged into weights that are not quantised.
    """
    print(f"How to open it: {clean(str(folder / 'README.md'))}")
    if quantization is not None:
        print(f"Trained on {quantization} weights, merged into the full ones: answers can differ from the training's.")
        print("Score it before you rely on it; docs/exports.md has figures.")


def _size_of(path: Path) -> str:
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{total / 1e6:,.1f} MB" if total >= 1e5 else f"{total / 1e3:,.1f} kB"


def _quoted(path: Path) -> str:
    return clean(shlex.quote(str(path)))
