"""Cleaned text steers no terminal, and loses nothing that can be seen."""

from hypothesis import example
from hypothesis import strategies as st

from tests.fuzz.profiles import fuzz
from tests.fuzz.strategies import PIECES, texts
from vlmtool.utils.terminal import clean, clean_line

BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
BEGINNINGS = (
    "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x9b", "\x9d", "\x90", "\x9c", "\x07", "\x1b\\", "[31m", "0;1",
    "\ud800", "\udc00",
)  # fmt: skip
pieces = st.sampled_from(BEGINNINGS + PIECES) | st.text(st.characters(), max_size=5)
anything = st.lists(pieces, max_size=12).map("".join)
# Long runs: what is slow is quadratic.
runs = st.builds(lambda piece, count: piece * count, st.sampled_from(BEGINNINGS) | texts, st.integers(1, 20_000))
seen = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=BIDI, include_characters="\t\n")
joining = st.sampled_from(["\u200d", "\u200f", "\u2028", "\ufeff", "e\u0301", "😀", "\t", "\n", "\xa0"])
visible = st.lists(joining | st.text(seen, max_size=20), max_size=8).map("".join)


def is_control(char: str) -> bool:
    return (ord(char) < 0x20 and char not in "\t\n") or 0x7F <= ord(char) < 0xA0 or "\ud800" <= char <= "\udfff"


@example(text="\x90a" * 100_000)  # each could begin a sequence that the end of the text would have to end
@fuzz(15, text=anything | runs)
def test_no_control_is_left(text):
    shown = clean(text)
    assert not any(is_control(char) or char in BIDI for char in shown)
    assert clean(shown) == shown
    assert shown.count("\n") == text.count("\n")
    assert not set(clean_line(text)) & {"\t", "\n"}
    shown.encode("utf-8")


@fuzz(10, text=visible)
def test_what_can_be_seen_stays(text):
    assert clean(text) == text
