"""The model card: a README.md that says what a folder is, from what its manifest records."""

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlmtool.convert.card_usage import USAGE
from vlmtool.models.fingerprint import SHORT
from vlmtool.models.lineage import describe_projector, stage_of
from vlmtool.models.manifest import CARD_NAME, Export, Manifest
from vlmtool.models.parts import BESIDE
from vlmtool.utils.files import write_text
from vlmtool.utils.hub import is_hub_id
from vlmtool.utils.terminal import clean, clean_line, err

MARK = "\n<!-- written by vlmtool "  # then the hash of what stands above, by which an edited card is known
_STAGE = ("stage", "recipe", "step", "language model", "image encoder", "projector", "checkpoint")


def write_card(folder: Path, manifest: Manifest, replaced: Path) -> None:
    """Write `README.md` into a folder that is described by `manifest`.

    Args:
        replaced: folder whose place it takes; a card that was edited there stays.
    """
    earlier = replaced / CARD_NAME
    if earlier.is_file() and _is_edited(text := earlier.read_text(encoding="utf-8", errors="replace")):
        write_text(folder / CARD_NAME, text)
        err().print(clean(f"{earlier} was edited and stays as it is; delete it for a new one."))
        return
    text = card(manifest)
    write_text(folder / CARD_NAME, f"{text}{MARK}{_digest(text)} -->\n")


def _is_edited(text: str) -> bool:
    """Not the very text that was written."""
    written, _, mark = text.rpartition(MARK)
    return mark != f"{_digest(written)} -->\n"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:SHORT]


def card(manifest: Manifest) -> str:
    """The text of the card. What users wrote (names, paths, stop words) stands in code spans, where it is only text."""
    layout = manifest.layout if isinstance(manifest, Export) else "vlmtool"
    newest = manifest.parents[0] if manifest.parents else {}
    return "\n".join(
        [
            _front_matter(manifest, layout),
            f"# {code(newest['name']) if newest.get('name') else 'A vision-language model'}\n",
            f"A vision-language model: an image encoder, a projector and a language model, in the {layout} format.\n",
            "## Parts\n",
            _table(("part", "from", "trained"), _parts(manifest)),
            "## How to open it\n",
            USAGE[layout],
            "## What it reads\n",
            _list(_reading(manifest)),
            "## Where it comes from\n",
            _table(_STAGE, _stages(manifest)),
            _list(_origin(manifest)),
        ]
    )


def code(value: object) -> str:
    """A code span that shows `value` and nothing else, in a table too.

    Its fence is longer than every run of backticks inside (https://spec.commonmark.org/0.31.2/#code-spans).
    """
    text = clean_line(str(value)).replace("|", "\\|").strip() or " "
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _front_matter(manifest: Manifest, layout: str) -> str:
    """What hubs index. JSON strings are YAML ones."""
    bases = [part.base for part in (manifest.llm, manifest.vision_encoder) if is_hub_id(part.base)]
    lines = ["---", f"library_name: {'transformers' if layout == 'huggingface' else 'vlmtool'}"]
    lines += ["pipeline_tag: image-text-to-text", "tags: [vlmtool, llava]"]
    lines += ["base_model:", *(f"  - {json.dumps(base)}" for base in bases)] if bases else []
    return "\n".join([*lines, "---\n"])


def _parts(manifest: Manifest) -> list[tuple[str, ...]]:
    how = stage_of(manifest.recipe)
    encoder = manifest.vision_encoder
    rows = [
        ("language model", _named(manifest.llm.base, manifest.llm.sha256), code(how.get("llm", ""))),
        ("image encoder", _named(encoder.base, encoder.sha256), code(how.get("vision_encoder", ""))),
    ]
    if encoder.beside is not None:
        rows.append((BESIDE, _named(encoder.beside.base, encoder.beside.sha256), "frozen"))
    return [*rows, ("projector", code(describe_projector(manifest.projector_config)), code(how.get("projector", "")))]


def _named(name: str, sha256: str) -> str:
    return f"{code(name)} ({code(sha256[:SHORT])})" if sha256 else code(name)


def _reading(manifest: Manifest) -> Iterable[str]:
    encoder, template = manifest.vision_encoder, manifest.template
    if manifest.image_tokens:
        yield f"Pictures: {manifest.image_tokens}, read at layer {encoder.select_layer} of the image encoder."
    yield f"Pictures are {'padded to a square first' if manifest.pad_to_square else 'not padded to a square'}."
    yield f"Prompts: the template {code(template.name)}." if template.name else "Prompts: the tokenizer's own template."
    if template.stop_words:
        yield f"Answers end at EOS or at {', '.join(map(code, template.stop_words))}."


def _stages(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    """From the first stage to this model."""
    for number, parent in enumerate(reversed(manifest.parents), 1):
        said: Any = parent.get("stage")
        stage: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
        how = [stage.get(part) for part in ("llm", "vision_encoder", "projector")]
        cells = [parent.get("name"), parent.get("step"), *how, str(parent.get("sha256") or "")[:SHORT]]
        yield str(number), *("" if cell in (None, "") else code(cell) for cell in cells)


def _origin(manifest: Manifest) -> Iterable[str]:
    sets = manifest.data.get("sets") or ([manifest.data] if manifest.data.get("path") else [])
    for data in sets:
        count = data.get("num_samples")
        samples = f", {count:,} samples" if isinstance(count, int) else ""
        yield f"Data: {_named(str(data.get('path')), str(data.get('sha256') or ''))}{samples}"
    if manifest.versions:
        yield f"Trained with {', '.join(code(f'{name} {value}') for name, value in sorted(manifest.versions.items()))}."
    for what in manifest.forced:
        yield f"Forced: {code(what)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) + "\n"
