"""From the name of a model, a local folder or a hub id, to a local folder."""

import os
import re
from pathlib import Path

from vlmtool.utils.errors import UsageError, message_lines

PACKAGE = Path(__file__).resolve().parent.parent
SHIPPED = "vlmtool://"  # a folder inside the installed package
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Of the form owner/name; a relative path of two steps is too."""
    return _HUB_ID.fullmatch(name) is not None


def local_folder(name: str, what: str) -> Path:
    """The folder that holds model `name`; a hub id is looked up in the local cache, then downloaded.

    Args:
        name: a folder, or a hub id such as `openai/clip-vit-large-patch14-336`. With `VLMTOOL_HUB=modelscope` ids are
            ModelScope's (needs the `modelscope` package). `vlmtool://demo/assets/llm` is a folder of this package.
        what: how the error calls it: "llm.path", "--llava".

    Raises:
        UsageError: there is no such folder, and the hub does not give it either.
    """
    path = PACKAGE / name.removeprefix(SHIPPED) if name.startswith(SHIPPED) else Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(("~", SHIPPED)) or not is_hub_id(name):
        raise UsageError(f"{what}: there is no folder '{name}'.\nGive an existing folder or a hub id (owner/name).")
    try:
        if os.environ.get("VLMTOOL_HUB") == "modelscope":
            from modelscope import snapshot_download  # type: ignore[import-not-found]
        else:
            from huggingface_hub import snapshot_download
        return Path(snapshot_download(name))
    except (OSError, ValueError, ImportError) as error:
        reason = message_lines(error)[0]
        raise UsageError(
            f"{what}: '{name}' is neither a folder here nor a model that could be fetched ({reason}).\n"
            "Download it first and give its folder."
        ) from error


def recorded_folder(name: str, beside: Path, what: str) -> Path:
    """The folder that a model folder recorded as `name`: seen from here, or from the folder `beside`; else the hub's.

    Raises:
        UsageError: it is nowhere.
    """
    near = beside / name
    return near if near.is_dir() and not Path(name).expanduser().is_dir() else local_folder(name, what)
