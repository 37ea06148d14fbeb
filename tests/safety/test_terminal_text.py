"""What users, files and models write cannot steer the terminal, nor pass for rich's markup."""

import io
import re

import pytest
from rich.console import Console

from vlmtool.chat.terminal import say
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.report import _table, report
from vlmtool.utils.terminal import clean, clean_line, err, out

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x1b[0m", "ab"),
        ("\x1b[2J\x1b[1;1Ha", "a"),
        ("\x1b[?1049h\x1b[>c\x1b[!pa", "a"),
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1b]52;c;cm0gLXJm\x1b\\a", "a"),  # the clipboard
        ("\x1bP+q544e\x1b\\a\x1b_Gq=1\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("\x9b31ma\x9d0;t\x9cb\x90q\x9cc", "abc"),  # the 8-bit forms
        ("\x1bc\x1b7\x1b(0", "c7(0"),  # two characters: what is left steers nothing
        ("open\x1b]0;the rest stays\nhere", "open]0;the rest stays\nhere"),
        ("a\x1b]0;no line is\nswallowed\x07b", "a]0;no line is\nswallowedb"),
        ("\x1b\x1b[0m[31mred", "[31mred"),  # what is left over makes no new sequence
        ("\x1b\x1b[\x1b[0m31mred", "[31mred"),
        ("a\rb\x08c\x00d\x07e\x0bf\x0cg\x7fh\x85i", "abcdefghi"),
        ("gpj.\u202egnp.exe \u2066x\u2069", "gpj.gnp.exe x"),
        ("name\udcff.jpg", "name\ufffd.jpg"),
        ("tab\tand\nline, ü 漢 😀 \u200d \u0627\u200f", "tab\tand\nline, ü 漢 😀 \u200d \u0627\u200f"),
    ],
)
def test_sequences_and_controls_are_taken_out(text, shown):
    assert clean(text) == shown
    assert not CONTROL.search(clean(text))
    assert clean(clean(text)) == clean(text)
    clean(text).encode()


def test_no_split_of_a_text_lets_a_control_through():
    text = "a\x1b[31mb\x1b]8;;http://x\x1b\\c\x9b1md\x1bP1$tx\x1b\\e"
    for first in range(len(text)):
        for second in range(first, len(text)):
            pieces = text[:first], text[first:second], text[second:]
            assert not CONTROL.search("".join(map(clean, pieces)))


def test_a_name_stays_in_its_line_and_column():
    assert clean_line("a\nError: b\tc\x1b[1A") == "a Error: b c"


def test_a_streamed_answer_smuggles_no_sequence(capsys):
    class Session:
        def ask(self, text):
            yield from ("safe \x1b", "[2J", "\x1b]52;c;", "eA==\x07", "\u202e", "end\x9b", "1m")

    for streams in (True, False):
        say(Session(), "What?", streams)  # type: ignore[arg-type]
        shown = capsys.readouterr().out
        assert shown.startswith("safe ") and not CONTROL.search(shown.replace("\n", ""))


@pytest.mark.parametrize(
    "name", ["[red]x", r"\[red]x", r"\\[red]x", "[link=http://evil]x[/link]", "[/]", ":bomb:", "[bold"]
)
def test_names_are_not_markup(write_table, tmp_path, capsys, name):
    benchmark = MMBench(
        write_table({"category": name, "l2-category": name + "\x1b[31m"}, name=f"t{name.count('x')}.tsv")
    )
    report(benchmark, {0: "A"}, tmp_path / "w")
    shown = capsys.readouterr().out
    assert name in shown and "\x1b" not in shown


def test_titles_are_not_markup():
    class Named:
        name, scale, data_path = "mmbench", 100, type("P", (), {"name": r"\[link=http://evil]x.tsv"})

    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(_table(Named(), "[/]", {"circular": {"Overall": 1.0}}))  # type: ignore[arg-type]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert r"\[link=http://evil]x.tsv·[/]" in "".join(shown.split()) and "\x1b]8" not in shown


@pytest.mark.parametrize("console", [out, err])
def test_consoles_print_emoji_names_as_they_are(console, capsys):
    console().print("a:bomb:b", markup=False)
    assert "a:bomb:b" in "".join(capsys.readouterr())
