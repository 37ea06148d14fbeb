"""`vlmtool chat`: talk to a model about pictures, at the terminal or in one shot."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.fetch import is_address
from vlmtool.utils.terminal import clean, clean_line

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from vlmtool.chat.generator import GenerationSettings, Generator

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FOLDER_BATCH = 8  # pictures of a folder that are answered at once


def chat(
    model: Annotated[
        str | None, typer.Argument(help="A model folder that vlmtool wrote, or the LLM (local folder or hub id).")
    ] = None,
    llava: Annotated[str | None, typer.Option(help="Folder or hub id with projector and adapters.")] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter of an LLM without --llava.")] = None,
    visual_encoder: Annotated[str | None, typer.Option(help="The image encoder, where the folder names none.")] = None,
    visual_select_layer: Annotated[int | None, typer.Option(help="Hidden state of the encoder to use.")] = None,
    prompt_template: Annotated[
        str | None, typer.Option(help="Chat template: a name or a .jinja file. Default: the tokenizer's own.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|URL|DIR",
            help="A picture for the first question; may be given again. A folder: ask about each picture.",
        ),
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this and print the answer only; given again, the next turn.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="Text that the conversation begins with.")] = None,
    system_template: Annotated[str | None, typer.Option(hidden=True)] = None,
    bits: Annotated[int | None, typer.Option(help="Load the LLM in 4 or 8 bits.")] = None,
    torch_dtype: Annotated[str | None, typer.Option(help="fp16, bf16, fp32 or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: a GPU if there is one.")] = None,
    bot_name: Annotated[str, typer.Option(help="How answers are headed at the terminal.")] = "BOT",
    no_streamer: Annotated[bool, typer.Option("--no-streamer", help="Print answers when they are complete.")] = False,
    stop_words: Annotated[
        list[str] | None, typer.Option("--stop-words", "--stop-word", help="End an answer here; may be given again.")
    ] = None,
    offload_folder: Annotated[str | None, typer.Option(hidden=True)] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 2048,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.1,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many tokens; 0: from all.")] = 40,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from tokens with this much probability.")] = 0.75,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings along or names.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on where an adapter was trained on another base, if its shapes fit.")
    ] = False,
    allow_local_urls: Annotated[
        bool, typer.Option("--allow-local-urls", help="Fetch pictures also from addresses inside this network.")
    ] = False,
) -> None:
    """Talk to a model about pictures.

    With --question the answer and nothing else is printed. Without it, each line is a question; /image PATH puts a
    picture into the next one, /help shows the commands.
    """
    questions, folder, images = question or [], *_pictures(image or [])
    _check(model or llava, questions, folder, repetition_penalty, system_template)
    parts: dict[str, Any] = dict(
        model=model, llava=llava, adapter=adapter, visual_encoder=visual_encoder, torch_dtype=torch_dtype,
        visual_select_layer=visual_select_layer, prompt_template=prompt_template, bits=bits, device=device,
        offload_folder=offload_folder, trust_remote_code=trust_remote_code, force=force,
    )  # fmt: skip
    pictures = _fetched(images, allow_local_urls)
    from vlmtool.chat.load import load_chat_model

    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print, stdout is the answers'
        generator = load_chat_model(**parts)
    from vlmtool.chat.generator import GenerationSettings

    settings = GenerationSettings(
        max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, tuple(stop_words or ())
    )
    if folder is not None:
        _ask_about_each(generator, settings, folder, images, questions[0], system)
        return
    from vlmtool.chat.session import ChatSession
    from vlmtool.chat.terminal import interact, say

    session = ChatSession(generator, settings, system)
    for picture in pictures:
        session.add_image(picture)
    for text in questions:
        say(session, text, not no_streamer)
    if not questions:
        interact(session, bot_name, not no_streamer, allow_local_urls)


def _check(
    model: str | None, questions: list[str], folder: Path | None, repetition_penalty: float, system_template: str | None
) -> None:
    """What needs no model to be told."""
    if model is None:
        raise UsageError("chat: no model. Name a model folder, or a language model and --llava FOLDER.")
    if system_template is not None:
        raise UsageError("--system-template: vlmtool ships no system texts. Give yours: --system TEXT.")
    if repetition_penalty <= 0:
        raise UsageError(f"--repetition-penalty {repetition_penalty}: it must be above 0; 1 changes nothing.")
    if folder is not None and len(questions) != 1:
        raise UsageError(f"--image {folder} is a folder: ask one --question about each of its pictures.")


def _pictures(names: list[str]) -> tuple[Path | None, list[str]]:
    """The folder of pictures, if one was given, and the picture files and addresses."""
    for name in names:
        if not is_address(name) and not Path(name).expanduser().exists():
            raise UsageError(f"--image {name}: there is no such file. Check the path.")
    found = [name if is_address(name) else str(Path(name).expanduser().absolute()) for name in names]
    folder = next((Path(name) for name in found if not is_address(name) and Path(name).is_dir()), None)
    if folder is None:
        return None, found
    if len(found) > 1:
        raise UsageError(f"--image {folder} is a folder: it cannot stand beside other pictures.")
    files = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    if not files:
        raise UsageError(f"--image {folder}: there is no picture in this folder ({', '.join(_PICTURES)}).")
    return folder, files


def _fetched(names: list[str], allow_local: bool) -> list[str | PILImage.Image]:
    """The same with pictures in place of addresses: one that does not answer is told before a model is loaded."""
    if not any(map(is_address, names)):
        return list(names)
    from vlmtool.data.remote_image import fetch_picture

    return [fetch_picture(name, allow_local) if is_address(name) else name for name in names]


def _ask_about_each(
    generator: Generator,
    settings: GenerationSettings,
    folder: Path,
    files: list[str],
    question: str,
    system: str | None,
) -> None:
    """`name<TAB>answer` for each picture of a folder; one that cannot be read is named on stderr, and counted."""
    from vlmtool.chat.generator import Request
    from vlmtool.chat.session import check_text
    from vlmtool.data.conversation import Image, Message, user
    from vlmtool.data.image_transform import open_picture

    check_text(question)
    head = (Message("system", (system,)),) if system else ()
    broken = 0
    for start in range(0, len(files), _FOLDER_BATCH):
        requests, names = [], []
        for file in files[start : start + _FOLDER_BATCH]:
            try:
                picture = open_picture(Path(file))
            except DataError as error:
                typer.echo(clean(f"Warning: {str(error).splitlines()[0]}"), err=True)
                broken += 1
                continue
            requests.append(Request((*head, user(Image(picture), "\n", question))))
            names.append(Path(file).name)
        for name, answer in zip(names, generator.generate(requests, settings), strict=True):
            print(f"{clean_line(name)}\t{clean(' '.join(answer.split()))}", flush=True)
    if broken:
        raise DataError(f"{folder}: {broken} of {len(files)} pictures cannot be read; the others are answered.")
