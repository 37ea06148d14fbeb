"""VLMEvalKit asks our models: `VlmtoolModel` is a model class of its own kind.

The interface: https://github.com/open-compass/VLMEvalKit, docs/en/Development.md and vlmeval/vlm/base.py.
"""

import re
import string
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.chat.load import load_chat_model
from vlmtool.data.conversation import Image, Message, assistant
from vlmtool.evaluation.benchmarks.mmbench import MMBench, question_text
from vlmtool.evaluation.benchmarks.mmbench_table import Row
from vlmtool.integrations.messages import question
from vlmtool.utils.errors import DataError

try:
    from vlmeval.vlm.base import BaseModel  # type: ignore[import-not-found]
except ModuleNotFoundError as error:
    if error.name != "vlmeval":  # it is there and lacks something itself, which its own message names
        raise
    raise ModuleNotFoundError(
        "vlmtool.integrations.vlmeval works inside VLMEvalKit, which is not installed here.\n"
        "Install it: pip install git+https://github.com/open-compass/VLMEvalKit",
        name="vlmeval",
    ) from error

LIKE_MMBENCH = re.compile(r"(mmbench(?!.?video)|ccbench)", re.IGNORECASE)
OTHER_TOKENS = 512  # longest answer elsewhere, as in `vlmtool chat`


class VlmtoolModel(BaseModel):
    """A model of ours, greedy.

    Args:
        model_path: a model folder, or the LLM.
        max_new_tokens: longest answer; None is that of `vlmtool mmbench` for its data sets, and 512 elsewhere.
        parts: further arguments of `load_chat_model`: llava, torch_dtype, bits …
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    allowed_types = ["text", "image"]

    def __init__(self, model_path: str, max_new_tokens: int | None = None, **parts: Any) -> None:
        super().__init__()
        # Each of VLMEvalKit's processes sees GPUs of its own only, so none but the first of them can have LOCAL_RANK's.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = load_chat_model(model_path, **{"device": device, **parts})
        self.max_new_tokens = max_new_tokens

    def use_custom_prompt(self, dataset: str) -> bool:
        """MMBench in all its forms is asked as `vlmtool mmbench` asks it, so that scores agree."""
        return LIKE_MMBENCH.match(dataset) is not None

    def build_prompt(self, line: Mapping[str, Any], dataset: str | None = None) -> list[dict[str, str]]:
        """The pictures, and hint, question and options; `line` is a row of VLMEvalKit's table."""
        pictures = self.dump_image(line, dataset)
        pictures = [pictures] if isinstance(pictures, str) else pictures
        text = question_text(_row(line))
        return [*({"type": "image", "value": path} for path in pictures), {"type": "text", "value": text}]

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to texts and pictures in reading order.

        Raises:
            DataError: something else than text or a picture file, or a role other than the user's.
        """
        return self._answer((_question(message),), dataset)

    def chat_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to the last turn of a conversation."""
        return self._answer(tuple(map(_turn, message)), dataset)

    def _answer(self, messages: tuple[Message, ...], dataset: str | None) -> str:
        standard = MMBench.max_new_tokens if dataset and self.use_custom_prompt(dataset) else OTHER_TOKENS
        settings = GenerationSettings(max_new_tokens=self.max_new_tokens or standard)
        return self.generator.generate([Request(messages)], settings)[0]


def _turn(turn: Mapping[str, Any]) -> Message:
    if turn["role"] == "user":
        return _question(turn["content"])
    if turn["role"] != "assistant":
        raise DataError(f"VLMEvalKit gave a turn of '{turn['role']}'. It must be the user's or the assistant's.")
    return assistant("".join(part["value"] for part in turn["content"]))


def _question(message: Sequence[Mapping[str, str]]) -> Message:
    for part in message:
        kind, role = part["type"], part.get("role", "user")
        if kind not in VlmtoolModel.allowed_types or role != "user":
            raise DataError(
                f"VLMEvalKit gave a part of type '{kind}' and role '{role}'; our models read a user's text and images."
                "\nLeave this data set out."
            )
    return question([Image(part["value"]) if part["type"] == "image" else part["value"] for part in message])


def _row(line: Mapping[str, Any]) -> Row:
    """Our row of the same question; only what the prompt needs is filled in."""

    def cell(name: str) -> str:
        return _text(line[name]) if name in line else ""

    options = {letter: cell(letter) for letter in string.ascii_uppercase if cell(letter)}
    index = int(line["index"])
    if list(options) != list(string.ascii_uppercase[: len(options)]):
        warnings.warn(
            f"Question {index} has the options {', '.join(options)} and none between: VLMEvalKit reads an option "
            "'None' or 'NA' as an empty cell. Such a question differs from what `vlmtool mmbench` asks.",
            stacklevel=2,
        )
    hint = cell("hint")
    return Row(index, 0, cell("question"), hint.strip() and hint, options, "", "", "", "", "")


def _text(value: Any) -> str:
    """A cell as text; pandas has NaN for an empty one, and 3.0 for a 3 in a column with empty ones."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
