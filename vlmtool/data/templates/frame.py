"""Chat templates that do nothing with the messages' texts but put them between their own: most do no more.

Such a template is rendered once for each row of roles; afterwards texts are joined, which takes a sixth of the time.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from jinja2 import TemplateSyntaxError, nodes

from vlmtool.data.encode import Span
from vlmtool.data.templates.library import syntax_tree

_OPEN, _CLOSE = "\ue0f3", "\ue0f4"  # no template holds them
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_JOINS = (nodes.Add, nodes.Concat)
_READS = (nodes.Getitem, nodes.Getattr)
# All else may keep a text, change it or look into it: macros, blocks, calls, slices, other filters.
_KNOWN = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand,
    nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Const, nodes.Name, nodes.Assign, nodes.NSRef, *_JOINS, *_READS,
)  # fmt: skip
_COUNTER = {"first", "last", "index", "index0"}  # of a loop: they know nothing of the messages
_BESIDE = {"previtem", "nextitem"}  # messages


@dataclass(frozen=True)
class Frame:
    """What a template writes around the texts of messages with certain roles."""

    fixed: tuple[str, ...]
    """Before, between and behind the texts."""
    order: tuple[int, ...]
    """Which message's text stands where."""
    answers: tuple[tuple[Span, Span], ...]
    """Where each answer begins and ends: after so many fixed characters and so many texts."""

    def filled(self, texts: Sequence[str]) -> tuple[str, list[Span]]:
        """The prompt, and the characters of its answers."""
        placed = [texts[number] for number in self.order]
        before = list(accumulate(map(len, placed), initial=0))
        joined = "".join(chain.from_iterable(zip(self.fixed, [*placed, ""], strict=True)))
        return joined, [(start + before[first], end + before[last]) for (start, first), (end, last) in self.answers]


def marks(number: int) -> list[str]:
    """Texts in place of those of so many messages, for `frame_of`."""
    return [f"{_OPEN}{place}{_CLOSE}" for place in range(number)]


def frame_of(rendered: str, answers: Sequence[Span]) -> Frame:
    """The frame that a template wrote around `marks`."""
    found = list(_MARK.finditer(rendered))
    ends = [mark.end() for mark in found]

    def place(edge: int) -> Span:
        texts = sum(end <= edge for end in ends)
        return edge - sum(len(mark.group()) for mark in found[:texts]), texts

    fixed = _MARK.split(rendered)[::2]
    order = tuple(int(mark[1]) for mark in found)
    return Frame(tuple(fixed), order, tuple((place(start), place(end)) for start, end in answers))


def only_places_texts(jinja: str) -> bool:
    """Whether a template's output is the same for all texts, but for the texts; False also where that is not clear."""
    if "strftime_now" in jinja:
        return False
    try:
        tree = syntax_tree(jinja)
    except TemplateSyntaxError:
        return False  # whoever renders says so
    return all(_is_harmless(node, above) for node, above in _walk(tree, []))


def _walk(node: nodes.Node, above: list[nodes.Node]) -> Iterator[tuple[nodes.Node, list[nodes.Node]]]:
    """Every node, and those that it stands in, the nearest last."""
    yield node, above
    for child in node.iter_child_nodes():
        yield from _walk(child, [*above, node])


def _is_harmless(node: nodes.Node, above: list[nodes.Node]) -> bool:
    if isinstance(node, nodes.Call):  # a namespace, which then holds what is known to hold no text
        return isinstance(node.node, nodes.Name) and node.node.name == "namespace" and not node.args
    if isinstance(node, nodes.Keyword):
        return isinstance(node.value, nodes.Const)
    if isinstance(node, nodes.Filter):
        return node.name == "string" and not node.args
    if not isinstance(node, _KNOWN):
        return False
    if isinstance(node, nodes.For):
        return isinstance(node.target, nodes.Name) and _is_name(node.iter, "messages")
    parent = above[-1] if above else None
    if isinstance(node, _READS):
        key = _key(node)
        if key == "content":
            return isinstance(next(one for one in reversed(above) if not isinstance(one, _JOINS)), nodes.Output)
        if key in _BESIDE:
            is_asked_for = isinstance(parent, nodes.Test) and parent.name in ("defined", "undefined")
            return _is_name(node.node, "loop") and (is_asked_for or _reads_message(parent))
        return True
    if isinstance(node, nodes.Name) and node.ctx == "load":
        if node.name == "messages":
            return isinstance(parent, nodes.For)
        if any(isinstance(one, nodes.For) and _is_name(one.target, node.name) for one in above):
            return _reads_message(parent)
        if node.name == "loop":
            return isinstance(parent, _READS) and _key(parent) in _COUNTER | _BESIDE
    return True


def _reads_message(node: nodes.Node | None) -> bool:
    return isinstance(node, _READS) and _key(node) in ("role", "content")


def _key(node: nodes.Getitem | nodes.Getattr) -> object:
    """What is read of something, where that is written out."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
