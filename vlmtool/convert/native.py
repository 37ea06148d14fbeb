"""A checkpoint with code of its own as a folder of its native class, which transformers loads alone."""

import shutil
from pathlib import Path

from vlmtool.convert.parts import save_shards
from vlmtool.convert.target import check_target, new_folder
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.models.fingerprint import identity_of
from vlmtool.models.legacy.find import find_legacy
from vlmtool.models.legacy.load import GENERATION
from vlmtool.models.legacy.map import LegacyMap
from vlmtool.models.llm import check_llm_folder
from vlmtool.models.manifest import PartManifest, remember_folder, write_manifest
from vlmtool.utils.errors import UsageError
from vlmtool.utils.folder_kind import other_than_model
from vlmtool.utils.hub import local_folder


def convert_native(src: str, save_path: Path, max_shard_size: str = "5GB") -> Path:
    """Write the native copy of a legacy checkpoint, whole or not at all: config, weights, tokenizer, settings.

    The weights keep their types; one shard of them is in memory at a time.

    Args:
        src: a local folder or a hub id.

    Returns:
        `save_path`.

    Raises:
        UsageError: `src` is no legacy checkpoint, `save_path` must not be replaced, or the disk is too small.
        CheckpointError: the checkpoint is damaged, or has what its native class does not compute.
    """
    folder = local_folder(src, "SRC")
    legacy = _find(src, folder)
    check_target(save_path, [folder])
    check_llm_folder(folder, trust_remote_code=False)
    config, tokenizer = legacy.native_config(folder), load_tokenizer(folder)
    state = legacy.native_state(folder)
    _check_disk(save_path, sum(value.nbytes for value in state.values()))
    config.dtype = config.dtype or next(value.dtype for value in state.values() if value.is_floating_point())
    config.name_or_path = ""
    with new_folder(save_path) as target:
        target.mkdir()
        config.save_pretrained(target)
        tokenizer.save_pretrained(target)
        if (folder / GENERATION).is_file():
            shutil.copyfile(folder / GENERATION, target / GENERATION)
        save_shards(state, target, max_shard_size)
        origin = identity_of(folder)
        write_manifest(target, PartManifest(part="llm", base=src, sha256=origin.weights, config_sha256=origin.config))
    remember_folder(save_path)
    return save_path


def _find(src: str, folder: Path) -> LegacyMap:
    if (legacy := find_legacy(folder)) is not None:
        return legacy
    if other := other_than_model(folder):
        raise UsageError(f"SRC: '{src}': this is {other.what}, not a language model.\n{other.remedy}")
    raise UsageError(
        f"SRC: '{src}' is no checkpoint that has to be converted.\n"
        "Of InternLM, Qwen, ChatGLM and Xmodel_LM those with code of their own are; use any other as it is."
    )


def _check_disk(save_path: Path, num_bytes: int) -> None:
    existing = next(p for p in (save_path, *save_path.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise UsageError(
            f"SAVE_PATH: '{save_path}' takes {num_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free there.\n"
            "Make room, or give another folder."
        )
