"""The chat down a pipe and at a terminal, and the command in one shot."""

import io
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chat.folders import Folders, write_folders
from vlmtool.chat.generator import GenerationSettings
from vlmtool.chat.session import ChatSession
from vlmtool.chat.terminal import interact, say
from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.utils.errors import UsageError
from vlmtool.utils.terminal import clean

SETTINGS = GenerationSettings(max_new_tokens=8)


@pytest.fixture(scope="session")
def folders(tmp_path_factory, llm_folder, vision_folder) -> Folders:
    return write_folders(tmp_path_factory.mktemp("models"), llm_folder, vision_folder)


@pytest.fixture
def session(generator) -> ChatSession:
    return ChatSession(generator, SETTINGS)


class Keyboard(io.StringIO):
    """A terminal's stdin."""

    def isatty(self) -> bool:
        return True


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """At the prompt these lines are typed, or keys that raise; then Ctrl-D."""
    typed = iter([*lines, EOFError])

    def answer(prompt: str) -> str:
        line = next(typed)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("builtins.input", answer)


def texts(session: ChatSession, role: str) -> list[str]:
    return ["".join(p for p in m.content if isinstance(p, str)) for m in session.messages if m.role == role]


def test_each_line_of_a_pipe_is_a_question(session, pictures, monkeypatch, capsys):
    lines = [f"/image '{pictures[0]}'", "What?", "", "/reset", "Who?", "Why?", "/exit", "Never asked"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    interact(session)
    assert texts(session, "user") == ["Who?", "Why?"]
    out, err = capsys.readouterr()
    assert out.endswith("".join(clean(text) + "\n" for text in texts(session, "assistant")))
    assert "BOT" not in out and not err


def test_an_error_ends_a_pipe(session, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/image ftp://example.com/a.png\n"))
    with pytest.raises(UsageError, match="only http and https"):
        interact(session)


def test_at_a_terminal_errors_are_told_and_the_chat_goes_on(session, pictures, monkeypatch, capsys):
    type_in(monkeypatch, "/imge x", "/image", "/image no.png", "/help", f"/image {pictures[0]}", "What?", "/home/x is?")
    interact(session, bot_name="Robot")
    out, err = capsys.readouterr()
    assert "Did you mean '/image'?" in err and "needs the path" in err and "no.png" in err and "forget" in err
    assert f"{Path(pictures[0]).name} goes with the next question." in err
    assert texts(session, "user") == ["\nWhat?", "/home/x is?"]
    assert out.startswith("Robot: ")


def test_ctrl_c_at_the_prompt_and_xtuners_words(session, monkeypatch):
    type_in(monkeypatch, "One", KeyboardInterrupt, "RESET", "Two", "EXIT", "Three")
    interact(session)
    assert texts(session, "user") == ["Two"]


def test_ctrl_c_stops_the_answer_not_the_program(session, monkeypatch):
    calls = []

    def press(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = session.generator.model.llm.register_forward_pre_hook(press)
    type_in(monkeypatch, "One", "Two")
    interact(session)
    handle.remove()
    assert texts(session, "user") == ["One", "Two"]
    short, whole = texts(session, "assistant")
    assert len(short) < len(whole)


def test_an_answer_cannot_steer_the_terminal(session, monkeypatch, capsys):
    monkeypatch.setattr(session, "ask", lambda text: (piece for piece in ["a\x1b[2J", "\x07b"]))
    say(session, "What?")
    say(session, "What?", streams=False)
    assert capsys.readouterr().out == "ab\nab\n"


def run(*arguments: str | Path) -> int:
    return invoke(app, ["chat", *map(str, arguments), "--device", "cpu"], debug=False)


ONE_SHOT = ("--temperature", "0", "--max-new-tokens", "8")


def test_one_shot_prints_the_answer_and_nothing_else(folders, pictures):
    command = [sys.executable, "-m", "vlmtool", "chat", str(folders.model), "--image", pictures[0], "--device", "cpu"]
    command += ["--question", "What?", "--visual-encoder", "openai/clip-vit-large-patch14", *ONE_SHOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 and done.stdout.strip()
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if "clip-vit" in line]  # the warning


def test_several_questions_are_turns_of_one_session(folders, pictures, capsys):
    arguments = (folders.model, "--image", pictures[0], *ONE_SHOT, "--no-streamer")
    assert run(*arguments, "--question", "What?", "--question", "Why?") == 0
    both = capsys.readouterr().out
    assert run(*arguments, "--question", "What?") == 0
    first = capsys.readouterr().out
    assert both.startswith(first) and len(both) > len(first)


def test_a_folder_of_pictures_is_asked_about_one_by_one(folders, pictures, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    assert run(folders.model, "--image", tmp_path, "--question", "What?", *ONE_SHOT) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["blue.png", "green.png", "grey.png", "red.png"]
    assert "broken.jpg" in err and "1 of 5" in err
    run(folders.model, "--image", pictures[0], "--question", "What?", *ONE_SHOT)
    assert capsys.readouterr().out.split() == out.splitlines()[3].split("\t")[1].split()


def test_a_picture_from_an_address_is_as_good_as_its_file(folders, pictures, capsys):
    here = partial(SimpleHTTPRequestHandler, directory=str(Path(pictures[0]).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), here) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{Path(pictures[0]).name}"
        arguments = ("--question", "What?", *ONE_SHOT)
        assert run(folders.model, "--image", url, "--allow-local-urls", *arguments) == 0
        fetched = capsys.readouterr().out
        assert run(folders.model, "--image", f"{url}x", "--allow-local-urls", *arguments) == 1
        assert "404" in capsys.readouterr().err
        server.shutdown()
    assert run(folders.model, "--image", pictures[0], *arguments) == 0
    assert capsys.readouterr().out == fetched


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no model"),
        (("/nope",), "no folder"),
        (("MODEL", "--image", "/nope.png"), "no such file"),
        (("MODEL", "--image", "ftp://example.com/a.png"), "only http and https"),
        (("MODEL", "--image", "http://127.0.0.1/a.png"), "--allow-local-urls"),
        (("MODEL", "--image", "https://example.com/a.png", "--image", "PICTURES", "--question", "What?"), "beside"),
        (("MODEL", "--image", "EMPTY", "--question", "What?"), "no picture"),
        (("MODEL", "--image", "PICTURES"), "one --question"),
        (("MODEL", "--image", "PICTURES", "--image", "PICTURE", "--question", "What?"), "beside"),
        (("MODEL", "--bits", "3"), "--bits 3"),
        (("MODEL", "--system-template", "coder"), "--system"),
        (("MODEL", "--repetition-penalty", "0"), "above 0"),
        (("MODEL", "--temperature", "-1"), "--temperature"),
    ],
)
def test_usage_errors_take_exit_code_2(folders, pictures, tmp_path, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    names = {"MODEL": folders.model, "PICTURES": tmp_path, "PICTURE": pictures[0], "EMPTY": tmp_path / "empty"}
    assert run(*[names.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) <= 3 and not out
