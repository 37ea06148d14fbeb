"""Which map a checkpoint needs, by its config.json alone."""

from pathlib import Path

from vlmtool.models.legacy.chatglm import CHATGLM
from vlmtool.models.legacy.internlm import INTERNLM
from vlmtool.models.legacy.internlm2 import INTERNLM2
from vlmtool.models.legacy.map import LegacyMap
from vlmtool.models.legacy.qwen import QWEN
from vlmtool.models.legacy.xmodel import XMODEL
from vlmtool.utils.files import read_json

MAPS = (INTERNLM, INTERNLM2, QWEN, CHATGLM, XMODEL)


def find_legacy(folder: Path) -> LegacyMap | None:
    """The map of a checkpoint that transformers alone loads with code of its own only; None of any other folder."""
    try:
        content = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None  # whoever loads it says what is wrong with it
    model_type = content.get("model_type") if isinstance(content, dict) else None
    return next((legacy for legacy in MAPS if model_type in legacy.model_types), None)
