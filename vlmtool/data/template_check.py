"""Does a chat template fit a tokenizer: its markers are tokens, BOS stands once, answers end in what stops a chat."""

import re
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from vlmtool.data.conversation import Conversation, assistant, user
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import ChatTemplate
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.utils.checklist import Row
from vlmtool.utils.errors import DataError

WHAT = "chat template"
_MARKER = re.compile(r"<\|[^<>|\s]+\|>|</?[A-Za-z]\w*>")  # <|im_start|>, <eoa>, </s>
PROBE = (user("What is it?"), assistant("A heron."), user("Where?"), assistant("In the reeds."))


def check_template(
    tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, vocabulary: int | None = None
) -> list[Row]:
    """What is wrong, or one row that says that all is well; found by rendering two turns.

    Args:
        template: with marked answers.
        vocabulary: rows of the LLM's embedding table; None leaves them out.
    """
    renderer = Renderer(tokenizer, template, lambda image: 1)
    try:
        first = renderer.sample(Conversation("first turn", PROBE[:2])).input_ids
        both = renderer.sample(Conversation("two turns", PROBE))
    except DataError as error:
        return [Row("error", WHAT, str(error).split("\n")[0], "Name another template in llm.template.")]
    answers = _supervised(both.labels)
    rows = [*_markers(tokenizer, template, both.input_ids), *_bos(tokenizer, template, first, both.input_ids)]
    ends = [_end(tokenizer, template, renderer.stop_ids(), answer) for answer in answers]
    if len(ends) != 2 or None in ends:
        shown = ", ".join(repr(tokenizer.decode(answer)[-12:]) for answer in answers) or "nothing"
        rows.append(
            Row(
                "error", WHAT, f"answers end in {shown}: neither EOS nor a stop word, so no chat would stop there",
                "Put eos_token or a stop word before {% endgeneration %}, or name another llm.template.",
            )
        )  # fmt: skip
    if vocabulary is not None and (strange := [token for token in set(both.input_ids) if token >= vocabulary]):
        shown = ", ".join(repr(tokenizer.decode([token])) for token in sorted(strange))
        rows.append(
            Row(
                "error", WHAT, f"the LLM has no embedding for {shown}: it knows {vocabulary} tokens",
                "Use the LLM's own tokenizer, or a template without these tokens.",
            )
        )  # fmt: skip
    name = template.name or "the tokenizer's own"
    return rows or [Row("ok", WHAT, f"{name}: {_bos_note(tokenizer, first)}answers end in '{ends[0]}'")]


def _supervised(labels: list[int]) -> list[list[int]]:
    """The ids of each answer."""
    groups = groupby(labels, lambda label: label != IGNORED)
    return [list(group) for is_answer, group in groups if is_answer]


def _end(
    tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, stop_ids: list[int], answer: list[int]
) -> str | None:
    """The EOS or stop word that ends an answer; a chat stops at either, however a stop word is tokenised."""
    if answer[-1] in stop_ids:
        return tokenizer.decode(answer[-1:])
    text = tokenizer.decode(answer)
    return next((word for word in template.stop_words if text.endswith(word)), None)


def _markers(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, ids: list[int]) -> list[Row]:
    """Printed markers and stop words that look like special tokens, but are text to this tokenizer."""
    printed = _MARKER.findall(tokenizer.decode(ids, skip_special_tokens=False))
    words = dict.fromkeys([*printed, *(word for word in template.stop_words if _MARKER.fullmatch(word))])
    unknown = [w for w in words if w != IMAGE_TAG and len(tokenizer.encode(w, add_special_tokens=False)) != 1]
    if not unknown:
        return []
    return [
        Row(
            "warning",
            WHAT,
            f"{', '.join(unknown)}: no token of this tokenizer, read as text of several tokens",
            "Name the template that the LLM was trained with: llm.template.",
        )
    ]


def _bos(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, first: list[int], both: list[int]) -> list[Row]:
    """BOS belongs once, at the beginning; where the tokenizer has none of its own, there is nothing to say."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:  # GPT-2's, which ends texts with the same token
        return []
    if tokenizer.bos_token in template.jinja and "bos_token" not in template.jinja:
        return []  # a marker of turns: SmolLM2's BOS is the <|im_start|> of ChatML
    text, remedy = repr(tokenizer.bos_token), "Print bos_token once, before the loop over the messages."
    if first.count(bos) > 1:
        return [Row("error", WHAT, f"BOS {text} stands {first.count(bos)} times in one turn", remedy)]
    if bos in both and both[0] != bos:
        return [Row("error", WHAT, f"BOS {text} does not stand first", remedy)]
    if both.count(bos) > 1:
        return [Row("warning", WHAT, f"BOS {text} begins each turn, not the sample alone", remedy)]
    if bos not in both and bos in tokenizer.encode("x"):  # the tokenizer itself begins a text with it
        return [Row("warning", WHAT, f"no BOS {text}, with which this tokenizer begins a text", remedy)]
    return []


def _bos_note(tokenizer: PreTrainedTokenizerBase, first: list[int]) -> str:
    count = first.count(tokenizer.bos_token_id)
    return "BOS begins each message, " if count > 1 else "BOS once, " if count else "no BOS, "
