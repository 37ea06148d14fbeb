"""Chat templates that read a message as parts, {"type": "image"} and {"type": "text", "text": …}, rather than as text.

Source: https://huggingface.co/docs/transformers/chat_templating_multimodal
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from vlmtool.data.tokenizer import IMAGE_TAG

_PROBE = "\ue0f2probe"  # no template holds it


@dataclass(frozen=True)
class TypedTemplate:
    """How a template writes parts.

    Attributes:
        breaks_line: it puts a line end after each image, so that the one which stands there already is left out.
    """

    breaks_line: bool

    def content(self, pieces: Sequence[str | None]) -> list[dict[str, str]]:
        """Parts of a message from its pieces in order, None for an image."""
        parts: list[dict[str, str]] = []
        for piece in pieces:
            after_image = bool(parts) and parts[-1]["type"] == "image"
            if piece is None:
                parts.append({"type": "image"})
            elif text := piece.removeprefix("\n") if after_image and self.breaks_line else piece:
                parts.append({"type": "text", "text": text})
        return parts


def typed_template(jinja: str) -> TypedTemplate | None:
    """How a template writes parts; None where it takes a message as text, as most do."""
    if _PROBE in _rendered(jinja, _PROBE):
        return None
    text = _rendered(jinja, [{"type": "image"}, {"type": "text", "text": _PROBE}])
    return TypedTemplate(f"{IMAGE_TAG}\n" in text) if _PROBE in text and IMAGE_TAG in text else None


def _rendered(jinja: str, content: Any) -> str:
    try:
        texts, _ = render_jinja_template(
            [[{"role": "user", "content": content}]], chat_template=jinja, bos_token="", eos_token=""
        )
    except (TemplateError, TypeError):
        return ""  # whoever renders a sample says what is wrong with it
    return texts[0]
