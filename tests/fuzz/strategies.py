"""Inputs: odd texts, odd JSON values, sound values spoiled in places, bytes damaged on their way."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

# Tags, markers of templates, jinja, sequences that steer terminals, and characters that tools stumble over.
PIECES = (
    "<image>", "<image>\n", "<IMAGE>", "<ima", "ge>", "<s>", "</s>", "<pad>", "<eoh>", "<eoa>", "<|User|>", "<|Bot|>",
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "USER: ", " ASSISTANT:", "{% generation %}", "{% endgeneration %}",
    "{{",
    "{{ bos_token }}", "{#", "\x1b[31m", "\x1b]0;x\x07", "\x9b1m", "\x90", "\x00", "\x07", "\r", "\r\n", "\n", "\n\n",
    "\t", " ", "   ", "\x0b", "\x85", "\u2028", "\u202e", "\u2066", "\ufeff", "\u200d", "\ufffd", "\ufffe", "\ue0f1",
    "e\u0301", "漢字", "😀", "a" * 300, '"', "'", "\\", ",", "=", "A", "B", "The answer is C", "[red]", "nan", "None",
    "0", "1.0",
    "=1+1", "#N/A", "-1",
)  # fmt: skip
PATHS = (
    "a.png", "sub/a.png", "./a.png", "a//b.png", "", ".", "..", "/", "../a.png", "a/../../b.png", "/etc/passwd",
    "~/a.png",
    "a\x00.png", "a\\..\\b", "C:\\a.png", "a" * 300, "ü/漢.png", "a b.png", "a\n.png", "http://x/a.png", "...", "a/..",
)  # fmt: skip
# Marks that `to_bytes` puts values in place of, which Python itself cannot write down or hold.
DEEP, DIGITS = "@deep@", "@digits@"

texts = st.sampled_from(PIECES) | st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join)
lone_surrogates = st.sampled_from(["\ud800", "a\udfffb", "\udc80.png"])
paths = st.sampled_from(PATHS) | st.text(max_size=8)
_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, paths, lone_surrogates,
    st.sampled_from([10**400, 2**63, -1, 0, 1e308, -0.0, [], {}]), st.sampled_from([DEEP, DIGITS]),
)  # fmt: skip
json_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


@st.composite
def spoiled(draw: DrawFn, sound: SearchStrategy[Any], others: SearchStrategy[Any] = json_values) -> Any:
    """A sound value, in which up to two places are replaced, taken away, or joined by another."""
    value = [copy.deepcopy(draw(sound))]
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        holder, key = draw(st.sampled_from(list(_places(value))))
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "replace":
            holder[key] = draw(others)
        elif what == "remove" and holder is not value:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(texts)] = draw(others)
        elif holder is not value:
            holder.insert(key, draw(others))
    return value[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of everything inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@st.composite
def to_bytes(draw: DrawFn, value: Any) -> bytes:
    """JSON of a value: escaped or not; deep values and long numbers in place of their marks."""
    data = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if f'"{DEEP}"'.encode() in data:
        # Around a thousand Python's own limit is reached, by some functions before others.
        depth = draw(st.sampled_from([50, 100_000]) | st.integers(600, 1000))
        nested = b"[" * depth + b"]" * depth if draw(st.booleans()) else b'{"a":' * depth + b"1" + b"}" * depth
        data = data.replace(f'"{DEEP}"'.encode(), nested)
    return data.replace(f'"{DIGITS}"'.encode(), b"1" * 5000)


@st.composite
def damaged(draw: DrawFn, whole: SearchStrategy[bytes]) -> bytes:
    """Bytes that are as they were, cut, with bits flipped, with bytes put in, or with a stretch put elsewhere."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["cut", "flip", "insert", "splice"]))
        if what == "cut":
            del data[place:]
        elif what == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=8) | st.sampled_from([b"\xef\xbb\xbf", b"\n", b"\x00", b'"']))
        else:
            start = draw(st.integers(0, len(data)))
            data[place:place] = data[start : start + draw(st.integers(1, 200))]
    return bytes(data)
