"""`vlmtool data convert`: other tools' data as LLaVA records."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import UsageError, did_you_mean, shortened
from vlmtool.utils.terminal import clean

if TYPE_CHECKING:
    from vlmtool.data.convert.items import Item
    from vlmtool.data.convert.picture_folder import PictureFolder
    from vlmtool.data.convert.write import Counts

FORMATS = {
    "ai-challenger": "AI Challenger's captions", "coco-captions": "COCO's captions_*.json", "llava": "LLaVA's records",
    "sharegpt": "conversations or messages, pictures in a list", "openai": "messages with typed content",
    "refcoco": "referring expressions and boxes", "parquet": "Hugging Face's shards", "webdataset": "tar shards",
}  # fmt: skip
AUTO = "auto"
CAPTIONS = ("random", "first", "all")
BOTH = "both"
_SUFFIXES = (".json", ".jsonl")
_LISTED = "\n".join(f"  {name}: {what}" for name, what in FORMATS.items())

Reader = Callable[[Path], "Iterator[Item]"]


def convert(
    source_format: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(FORMATS)}; {AUTO} looks.")],
    paths: Annotated[list[Path], typer.Argument(metavar="SRC… DST", help="Files to read; DST.json or DST.jsonl.")],
    image_folder: Annotated[
        Path | None, typer.Option(help="Where the pictures are; those that a source holds are written there.")
    ] = None,
    image_prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="Before every picture that a source names, e.g. coco/train2017/.")
    ] = "",
    check_images: Annotated[
        bool, typer.Option("--check-images", help="Leave out records whose picture is missing or broken.")
    ] = False,
    max_skipped: Annotated[
        int, typer.Option(min=0, metavar="N", help="Records that may be left out; with more nothing is written.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
    captions: Annotated[
        str | None, typer.Option(help=f"ai-challenger: {', '.join(CAPTIONS)} (default random).")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="ai-challenger: the picture after or before the question, both (default), or your own text."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="ai-challenger: of the random choices (default 0).")] = None,
    box_form: Annotated[
        str | None, typer.Option(help="refcoco: how boxes are written: xtuner (default), llava, unpadded.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download pictures at http addresses.")] = False,
    allow_local_urls: Annotated[
        bool, typer.Option("--allow-local-urls", help="Fetch from this machine's network, too.")
    ] = False,
) -> None:
    """Turn another tool's data into LLaVA records, and list what could not be turned beside them."""
    sources, path = _checked_paths(paths, overwrite)
    names = {source: _checked_format(source_format, source) for source in sources}
    own: dict[str, dict[str, object]] = {
        "ai-challenger": {"captions": captions, "prompt": prompt, "seed": seed}, "refcoco": {"box-form": box_form},
    }  # fmt: skip
    for name, options in own.items():
        given = [option for option, value in options.items() if value is not None]
        if given and name not in names.values():
            raise UsageError(f"--{given[0]} is for {name}.\nLeave it out, or name that format.")
    if check_images and image_folder is None:
        raise UsageError("--check-images needs the folder of the pictures.\nName it: --image-folder DIR.")
    from vlmtool.data.convert.picture_folder import PictureFolder
    from vlmtool.data.convert.write import missing_picture, write_records
    from vlmtool.utils.terminal import track

    pictures = PictureFolder(image_folder, image_prefix, fetch, allow_local_urls)
    readers = _readers(pictures, captions or "random", prompt or BOTH, seed or 0, box_form or "xtuner")
    items = (
        item for source in track(sources, len(sources), "Converting, files") for item in readers[names[source]](source)
    )
    find = missing_picture(image_folder) if check_images and image_folder else None
    counts = write_records(items, path, max_skipped, find)
    _report(counts, path, pictures)


def _checked_paths(paths: list[Path], overwrite: bool) -> tuple[list[Path], Path]:
    """The files to read and the one to write."""
    if len(paths) < 2:
        raise UsageError("SRC… DST: one path only.\nGive the files to read, then the one to write.")
    *sources, path = paths
    for source in sources:
        if not source.is_file():
            what = "is a folder; name its files" if source.is_dir() else "there is no such file"
            raise UsageError(f"SRC {source}: {what}.\nGive one or more files, then DST.")
        if source.resolve() == path.resolve():
            raise UsageError(f"DST {path}: is one of the files to read.\nGive another name.")
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"DST {path}: ends in neither .json (an array) nor .jsonl (one record a line).\nRename it.")
    if path.exists() and not overwrite:
        raise UsageError(f"DST {path}: is there already.\nGive another name, or replace it: --overwrite.")
    return sources, path


def _checked_format(name: str, source: Path) -> str:
    """A format's name; `auto` is what the source shows."""
    if name == AUTO:
        from vlmtool.data.convert.detect import detect

        return detect(source)
    if name not in FORMATS:
        raise UsageError(f"{shortened(name)}: no such format.{did_you_mean(name, FORMATS)}\n"
                         f"There are: {', '.join(FORMATS)}, {AUTO}.")  # fmt: skip
    return name


def _readers(pictures: "PictureFolder", captions: str, prompt: str, seed: int, box_form: str) -> dict[str, Reader]:
    """For each format what reads a source of it."""
    from random import Random

    from vlmtool.data.convert import ai_challenger, chat_records, coco_captions, llava, refcoco

    prompts = _prompts(prompt, ai_challenger.PROMPTS)
    if captions not in CAPTIONS:
        raise UsageError(f"--captions {shortened(captions)}: not one of {', '.join(CAPTIONS)}.")
    generator = Random(seed)
    boxes = _box_writer(box_form)
    choice: Any = captions
    return {
        "ai-challenger": lambda source: ai_challenger.records(source, pictures, generator, choice, prompts),
        "coco-captions": lambda source: coco_captions.records(source, pictures),
        "llava": lambda source: llava.records(source, pictures),
        "sharegpt": lambda source: chat_records.records(source, pictures),
        "openai": lambda source: chat_records.records(source, pictures),
        "refcoco": lambda source: refcoco.records(source, pictures, *boxes),
        "parquet": lambda source: _parquet(source, pictures),
        "webdataset": lambda source: _webdataset(source, pictures),
    }


def _parquet(source: Path, pictures: "PictureFolder") -> "Iterator[Item]":
    from vlmtool.data.convert import parquet  # pyarrow takes a while

    return parquet.records(source, pictures)


def _webdataset(source: Path, pictures: "PictureFolder") -> "Iterator[Item]":
    from vlmtool.data.convert import webdataset

    return webdataset.records(source, pictures)


def _prompts(given: str, known: dict[str, str]) -> list[str]:
    """The questions that are asked; a text of the user's own holds the picture's tag once."""
    from vlmtool.data.tokenizer import IMAGE_TAG

    if given == BOTH:
        return list(known.values())
    if given in known:
        return [known[given]]
    if given.count(IMAGE_TAG) != 1:
        raise UsageError(
            f"--prompt '{shortened(given)}': not {', '.join(known)} or {BOTH}, and no text with one {IMAGE_TAG}.\n"
            f"Write, for instance: --prompt '{IMAGE_TAG}描述这幅图像。'"
        )
    return [given]


def _box_writer(name: str) -> tuple[Callable[[str], str], Callable[[Any, Any], str]]:
    """How a box is asked for and written, as evaluation asks for and reads it."""
    from vlmtool.evaluation.reading.boxes import FORMS

    if name not in FORMS:
        raise UsageError(f"--box-form {shortened(name)}: not one of {', '.join(FORMS)}.{did_you_mean(name, FORMS)}")
    form = FORMS[name]
    return form.instruction.format, lambda box, size: form.write(form.in_frame(box, size))


def _report(counts: "Counts", path: Path, pictures: "PictureFolder") -> None:
    from vlmtool.data.convert.write import skipped_path

    left_out = counts.skipped.total()
    written = f"{counts.written:,} written to {clean(str(path))}"
    print(f"{counted(counts.read, 'record')} read, {written}, {left_out:,} left out.")
    for reason, number in counts.skipped.most_common():
        print(f"  {number:,} {clean(reason)}")
    if left_out:
        print(f"Each is listed in {clean(str(skipped_path(path)))}.")
    if counts.renamed:
        print(f"{counted(counts.renamed, 'id')} had been used before, and got a number.")
    if pictures.written:
        print(f"{counted(len(pictures.written), 'picture')} written to {clean(str(pictures.folder))}.")
