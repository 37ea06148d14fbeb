"""A chat at the terminal, or down a pipe: each line is a question or a command."""

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from vlmtool.chat.session import ChatSession
from vlmtool.data.remote_image import fetch_picture
from vlmtool.utils.errors import UsageError, VlmtoolError, did_you_mean
from vlmtool.utils.fetch import is_address
from vlmtool.utils.terminal import clean, clean_line

HELP = """\
/image PATH   put a picture into the next question, from a file or an http(s) address; several are possible
/reset        forget the conversation
/help         this text
/exit         leave; Ctrl-D does too. Ctrl-C stops an answer."""
_COMMANDS = ("/image", "/reset", "/help", "/exit")
_XTUNER_WORDS = {"EXIT": "/exit", "RESET": "/reset"}


def interact(session: ChatSession, bot_name: str = "BOT", streams: bool = True, allow_local_urls: bool = False) -> None:
    """Read lines until the end of the input. On a pipe only answers are written to stdout, and an error ends the chat.

    Args:
        streams: show an answer while it grows, not when it is complete.
        allow_local_urls: pictures may come from addresses inside the network.
    """
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  # gives input() its history and editing

        print("Ask a question; /help shows the commands.", file=sys.stderr)
    for line in _lines(is_terminal):
        try:
            command = as_command(line)
            if command == "/exit":
                return
            if command is not None:
                note = obey(session, command, line.partition(" ")[2], allow_local_urls)
                if is_terminal:
                    print(clean(note), file=sys.stderr)
            elif line:
                if is_terminal:
                    print(f"{clean_line(bot_name)}: ", end="", flush=True)
                say(session, line, streams)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print()
        except VlmtoolError as error:
            if not is_terminal:
                raise
            print(clean(f"Error: {error}"), file=sys.stderr)


def _lines(is_terminal: bool) -> Iterator[str]:
    """The user's lines, stripped."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are told as such
    if not is_terminal:
        yield from map(str.strip, sys.stdin)
        return
    while True:
        try:
            yield input("USER: ").strip()
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
        except EOFError:
            print()
            return


def as_command(line: str) -> str | None:
    """The command that a line gives; None for a question.

    Raises:
        UsageError: a command that does not exist.
    """
    word = _XTUNER_WORDS.get(line, line.partition(" ")[0])
    if word in _COMMANDS:
        return word
    if word.startswith("/") and word[1:].isalpha():
        raise UsageError(f"There is no command {word}.{did_you_mean(word, _COMMANDS)}\n/help shows all.")
    return None


def obey(session: ChatSession, command: str, argument: str, allow_local_urls: bool = False) -> str:
    """Do what a command says; what to tell about it comes back."""
    if command == "/help":
        return HELP
    if command == "/reset":
        session.reset()
        return "The conversation and its pictures are forgotten."
    name = image_name(argument)
    session.add_image(fetch_picture(name, allow_local_urls) if is_address(name) else name)
    return f"{clean_line(name if is_address(name) else Path(name).name)} goes with the next question."


def image_name(text: str) -> str:
    """An address, or an absolute path, from what people type and drop: quotes are taken off, `~` is the home folder.

    Raises:
        UsageError: nothing, or no file.
    """
    name = text.strip().strip("'\"")
    if not name:
        raise UsageError("/image needs the path of a picture.")
    if is_address(name):
        return name
    file = Path(name).expanduser().absolute()
    if not file.is_file():
        raise UsageError(f"{name}: there is no such file.\nCheck the path.")
    return str(file)


def say(session: ChatSession, question: str, streams: bool = True) -> None:
    """Print the answer to a question and a line's end. Interrupted, the session keeps what the answer was so far."""
    pieces = session.ask(question)
    try:
        if streams:
            for piece in pieces:
                print(clean(piece), end="", flush=True)
            print(flush=True)
        else:
            print(clean("".join(pieces)), flush=True)
    finally:
        pieces.close()
