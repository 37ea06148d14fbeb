"""What must stay the same from one stage to the next, and what happens where it does not."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import SHORT, Identity, file_hashes
from vlmtool.models.parts import BESIDE, PARTS
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import read_json_object
from vlmtool.utils.terminal import clean, err

_ALWAYS_THE_SAME = ("type", "select_layer", "select_strategy")  # of an encoder's reading, from stage to stage
_XTUNER_TYPE = "vlmtool.models.projectors.mlp.MLPProjector"


@dataclass
class Guard:
    """Where things are mixed up: an error, or with `force` a warning that is kept for the record.

    Made by a command and handed down; what was overridden goes into the meta or the manifest that the command writes.
    """

    force: bool = False
    overridden: list[str] = field(default_factory=list)

    def refuse(self, what: str, remedy: str) -> None:
        """Refuse what could work but does not belong together. What cannot work is raised where it is found.

        Args:
            what: what is mixed up, in one line; this is the record.
            remedy: how to mend it, in one line.

        Raises:
            CheckpointError: unless forced.
        """
        if not self.force:
            raise CheckpointError(f"{what}\n{remedy}\nOr go on all the same with --force, which is recorded.")
        if what not in self.overridden:
            self.overridden.append(what)
            _warn(what)


def _warn(what: str) -> None:
    from vlmtool.utils.distributed import is_main  # imports torch, which reading a manifest goes without

    if is_main():
        err().print(clean(f"Warning: {what} Forced."))


@dataclass(frozen=True)
class Setup:
    """How a stage is put together, as far as its weights depend on it."""

    parts: Mapping[str, tuple[str, Identity]]
    """{llm, vision_encoder, vision_encoder.beside where there is one}: path, and what lies there."""
    template: tuple[str | None, str]
    """Name and text hash; an empty hash where it was not recorded."""
    projector: Mapping[str, Any]
    """`projector_config`; empty where it was not recorded."""
    reading: Reading
    """Of the encoder."""
    pad_to_square: bool
    trains: frozenset[str]
    """The parts whose weights change."""


def check_setup(before: Setup, now: Setup, where: str, guard: Guard, may_move_on: bool = True) -> None:
    """The weights of `before` belong into `now`.

    Args:
        where: what holds the weights, for the message.
        may_move_on: a stage that trained the projector alone leaves the prompt and the padding free: LLaVA aligns on
            bare captions and unpadded pictures. False where the same stage goes on.

    Raises:
        CheckpointError: they do not, and the guard does not let it pass.
    """
    is_free = may_move_on and before.trains <= {"projector"}
    for what, remedy in _differences(before, now, is_free):
        guard.refuse(f"{where} was trained {what}", remedy)


def _differences(before: Setup, now: Setup, is_free: bool) -> Iterator[tuple[str, str]]:
    """(what is different, how to mend it)."""
    if (before.parts.keys() ^ now.parts.keys()) == {BESIDE}:
        then, today = (f"'{s.parts[BESIDE][0]}'" if BESIDE in s.parts else "no other" for s in (before, now))
        yield (
            f"with {then} beside its vision_encoder; this recipe has {today}.",
            f"Set {BESIDE} as before, or train the stage before again.",
        )
    for part in (name for name in before.parts if name in now.parts):
        (path, identity), (here, found) = before.parts[part], now.parts[part]
        if difference := identity.difference(found):
            kind, then, today = difference
            yield (
                f"on another {part}: '{path}' with {kind} {then}; '{here}' has {kind} {today}.",
                f"Use the same {part}, or train the stage before again.",
            )
    was, is_ = (_projector(setup.projector, is_free) for setup in (before, now))
    if was and text_hash(was) != text_hash(is_):
        yield (
            f"with another projector: {_named(before.projector)}; this recipe has {_named(now.projector)}.",
            "Give the recipe the projector of the stage before.",
        )
    if changed := _changed(before.reading, now.reading, is_free):
        yield (
            f"on an encoder read with {_said(before.reading, changed)}; this recipe reads it with "
            f"{_said(now.reading, changed)}.",
            f"Set {', '.join(f'vision_encoder.{name}' for name in changed)} as before.",
        )
    (then_name, then_hash), (name, hash_) = before.template, now.template
    if not is_free and then_hash and then_hash != hash_:
        yield (
            f"with another template: {then_name or 'the tokenizer’s own'} ({then_hash[:SHORT]}); this recipe has "
            f"{name or 'the tokenizer’s own'} ({hash_[:SHORT]}).",
            "Set llm.template as it was.",
        )
    if not is_free and before.pad_to_square != now.pad_to_square:
        yield (
            f"with data.pad_to_square={before.pad_to_square}; this recipe has {now.pad_to_square}.",
            f"Set data.pad_to_square={before.pad_to_square}.",
        )


def _projector(config: Mapping[str, Any], is_free: bool) -> dict[str, Any]:
    """What must stay of it: LLaVA-NeXT aligns on whole pictures and tiles them afterwards."""
    return {key: value for key, value in config.items() if not (is_free and key == "row_end")}


def _changed(before: Reading, now: Reading, is_free: bool) -> list[str]:
    """Names of what is read otherwise and may not be; of another encoder beside the first the parts tell."""
    then, today = _values(before), _values(now)
    names = [name for name in then if name in today and then[name] != today[name]]
    return [name for name in names if not is_free or name.removeprefix("beside.") in _ALWAYS_THE_SAME]


def _values(reading: Reading) -> dict[str, Any]:
    """What it says, by the keys below `vision_encoder`."""
    said = reading.said()
    return said | {f"beside.{name}": value for name, value in said.pop("beside", {}).items()}


def _said(reading: Reading, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_values(reading)[name]}" for name in names)


def _named(projector: Mapping[str, Any]) -> str:
    return f"{describe_projector(projector)} ({text_hash(projector)[:SHORT]})"


def describe_projector(config: Mapping[str, Any]) -> str:
    """`MLPProjector 1024 → 4096, depth 2, hidden_act gelu, bias`."""
    name = str(config.get("type")).rpartition(".")[2]
    options = config.get("options")
    options = options if isinstance(options, Mapping) else {}
    said = [key if value is True else f"{key} {value}" for key, value in options.items() if value is not False]
    widths = f"{config.get('vision_hidden_size')} → {config.get('llm_hidden_size')}"
    return ", ".join([f"{name} {widths}", *said])


def read_projector_config(folder: Path) -> dict[str, Any]:
    """{type, vision_hidden_size, llm_hidden_size, options} from a projector's config.json, vlmtool's or XTuner's, and
    row_end where it makes one. What the file does not say is None.

    Raises:
        CheckpointError: there is none to read.
    """
    said = read_json_object(folder / "config.json")
    if "visual_hidden_size" in said:  # XTuner's, which names only a base class
        options = {name: said[name] for name in ("depth", "hidden_act", "bias") if name in said}
        said |= {"type": _XTUNER_TYPE, "vision_hidden_size": said["visual_hidden_size"], "options": options}
    config = {name: said.get(name) for name in ("type", "vision_hidden_size", "llm_hidden_size", "options")}
    return config | ({"row_end": True} if said.get("row_end") else {})


def text_hash(value: str | Mapping[str, Any]) -> str:
    """sha256 of a text, or of plain values whatever their order."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parent_entry(checkpoint: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """How a checkpoint stands in the list of parents of what is made from it."""
    return {
        "checkpoint": str(checkpoint),
        "sha256": file_hashes([checkpoint])[checkpoint],
        "name": meta.get("name"),
        "step": meta.get("step"),
        "epoch": meta.get("epoch"),
        "stage": stage_of(meta.get("recipe") or {}),
    }


def stage_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe trains of each part: `frozen`, `full`, `lora r=8 alpha=16`, …; ` on nf4` where it is quantised.

    Reads plain values, so that a recipe of any version of vlmtool will do; a part that it does not name is left out.
    """
    return {part: _tuning(section) for part in PARTS if isinstance(section := recipe.get(part), Mapping)}


def _tuning(section: Mapping[str, Any]) -> str:
    lora, prefix, freeze = (section.get(key) for key in ("lora", "prefix", "freeze"))
    if isinstance(lora, Mapping):
        how = describe_lora(lora.get("r"), lora.get("alpha"), bool(lora.get("dora")), bool(lora.get("rslora")))
    elif isinstance(prefix, Mapping):
        how = describe_prefix(prefix.get("num_tokens"))
    elif "path" in section:  # a base stays as it is unless told otherwise; a projector is trained unless told otherwise
        how = "full" if freeze is False else "frozen"
    else:
        how = "frozen" if freeze else "full"
    return f"{how} on {section['quantization']}" if section.get("quantization") else how


def describe_lora(r: Any, alpha: Any, dora: bool = False, rslora: bool = False) -> str:
    """`lora r=8 alpha=16`; recipes hold alpha as a float, which is a whole number nearly always."""
    shown = int(alpha) if isinstance(alpha, float) and alpha.is_integer() else alpha
    return f"{'dora' if dora else 'lora'} r={r} alpha={shown}{' rslora' if rslora else ''}"


def describe_prefix(num_tokens: Any) -> str:
    """`prefix num_tokens=16`."""
    return f"prefix num_tokens={num_tokens}"
