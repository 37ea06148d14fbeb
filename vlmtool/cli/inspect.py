"""`vlmtool inspect`: what a checkpoint or folder is, where it comes from, and whether all of that is still there."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtool.utils.checklist import counted
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.terminal import clean

if TYPE_CHECKING:
    from vlmtool.convert.disk import Check
    from vlmtool.convert.report import PartReport, Report

_LABEL = 16  # columns
_WIDTH = 80
_FIXED = "\N{NO-BREAK SPACE}"  # no line ends between a package and its version
_NAMED = 3  # so many files of a kind are named, the others counted


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="iter_N.pth, a run folder, a model folder, a merged or plain part, a peft adapter, or another tool's."
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read and hash every file anew, the parts it names included.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Tell what a checkpoint or folder is, where it comes from, and whether its parts are still the same.

    Exit code 0: all is well; 1: something disagrees or is damaged; 2: there is nothing here that vlmtool knows.
    """
    from vlmtool.convert.inspect import inspect_path

    report = inspect_path(path, verify)
    if as_json:
        from dataclasses import asdict

        print(json.dumps(asdict(report), indent=2, ensure_ascii=True, default=str))
    else:
        print("\n".join(clean(line) for line in _lines(report)))
    if report.problems:
        first, more = clean(report.problems[0]), len(report.problems) - 1
        others = f" And {more} more, in the report." if more else ""
        raise CheckpointError(
            f"{path}: {first}.{others}\nRestore what changed, or make the folder again; docs/checkpoints.md tells more."
        )


def _lines(report: Report) -> list[str]:
    """The report for a person, in blocks."""
    blocks = [_head(report), *(_part(part) for part in report.parts)]
    blocks += [_use(report), _origin(report), _wrapped("forced", report.forced), _files(report)]
    blocks.append(_wrapped("problems", report.problems))
    return [line for block in blocks if block for line in ("", *block)][1:]


def _head(report: Report) -> list[str]:
    counts = {"step": report.step, "epoch": report.epoch}
    said = [report.recipe] if report.recipe else []
    said += [f"{name} {value:,}" for name, value in counts.items() if _is_count(value)]
    lines = [
        *_wrapped("path", [report.path]),
        *_wrapped("what", [_joined(report.kind, report.detail)]),
        *_wrapped("recipe", [_joined(*said)]),
    ]
    lines += _wrapped("sha256", [report.sha256[:12]]) if report.sha256 else []
    return lines + (_wrapped("saved", [", ".join(report.checkpoints)]) if len(report.checkpoints) > 1 else [])


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float)


def _part(part: PartReport) -> list[str]:
    lines = _wrapped(part.name, [text for text in (part.trained, part.about) if text] or ["not recorded"])
    if part.base:
        lines += _wrapped("  base", [part.base, *(_told(part.base_check) or ["not needed: the whole part is here"])])
    if part.held:
        lines += _wrapped("  in " + part.held if part.held != "./" else "  weights", _told(part.held_check))
    return lines + _wrapped("  merged in", part.merged)


def _told(check: Check | None) -> list[str]:
    return [check.told()] if check is not None else []


def _use(report: Report) -> list[str]:
    """How pictures and prompts are read."""
    lines: list[str] = []
    if pictures := report.pictures:
        lines += _wrapped("pictures", [", ".join(_pictures(pictures))])
    if template := report.template:
        stops = f", ends at {' '.join(map(repr, template['stop_words']))}" if template["stop_words"] else ""
        name = template["name"] or "the tokenizer's own"
        lines += _wrapped("template", [f"{name} {str(template['sha256'])[:12]}{stops}"])
    return lines


def _pictures(said: Mapping[str, Any]) -> list[str]:
    """How the encoder is read, and what is done to a picture before."""
    told = [f"hidden state {said['select_layer']} ({said['select_strategy']})"]
    if said.get("image_size"):
        told.append(f"at {said['image_size']} px")
    if grids := said.get("tiles"):
        told.append(f"in tiles of {', '.join(f'{rows}×{columns}' for rows, columns in grids)}")
    if said.get("max_patches"):
        told.append(f"in up to {said['max_patches']:,} patches")
    if beside := said.get("beside"):
        told.append(f"the second encoder at hidden state {beside['select_layer']} ({beside['select_strategy']})")
    return [*told, "padded to a square" if said["pad_to_square"] else "not padded"]


def _origin(report: Report) -> list[str]:
    lines: list[str] = []
    for data in report.data.get("sets") or ([report.data] if report.data else []):
        count = counted(data["num_samples"], "sample") if _is_count(data.get("num_samples")) else ""
        if data.get("weight", 1.0) != 1.0:
            count += f", weight {data['weight']}"
        lines += _wrapped("data", [str(data.get("path", "")), _joined(*_told(data.get("check")), count)])
    for number, parent in enumerate(report.parents, start=1):
        step = f", step {parent['step']:,}" if _is_count(parent.get("step")) else ""
        stage = ", ".join(f"{part} {how}" for part, how in parent["stage"].items())
        lines += _wrapped(
            f"parent {number}",
            [
                _joined(f"{parent.get('name')}{step}", str(parent.get("kind") or "")),
                stage,
                str(parent.get("checkpoint", "")),
                *_told(parent.get("check")),
            ],
        )
    for found in report.scores:
        value = "no answers in the data" if found["score"] is None else f"{found['what']} {found['score']:.1f}"
        lines += _wrapped("score", [f"{found['benchmark']}, {value}", str(found["folder"])])
    if report.versions:
        said = [
            f"{package} {was}" + ("" if was == now else f" (here {now or 'not installed'})")
            for package, (was, now) in report.versions.items()
        ]
        kept = [text.replace(" ", _FIXED) for text in said]
        lines += [line.replace(_FIXED, " ") for line in _wrapped("versions", [", ".join(kept)])]
    return lines


def _files(report: Report) -> list[str]:
    """How the files compare; what differs stands among the problems."""
    files = report.files
    if files is None:
        return []
    total = files.num_agreeing + len(files.differing) + len(files.missing) + len(files.unread)
    if not total:
        return _wrapped("files", ["no hashes recorded: written by an earlier vlmtool"])
    said = [f"{files.num_agreeing} of {total} agree with what was recorded"]
    said += [f"not read: {_some(files.unread)} (large; --verify reads them)"] if files.unread else []
    said += [f"not recorded: {_some(files.unrecorded)}"] if files.unrecorded else []
    return _wrapped("files", said)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _wrapped(label: str, texts: Iterable[str]) -> list[str]:
    """Texts below one another beside their label, broken at spaces only, so that paths can be copied."""
    lines: list[str] = []
    for text in texts:
        lines += textwrap.wrap(text, _WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False)
    labels = [label, *[""] * (len(lines) - 1)]
    if lines and len(label) >= _LABEL:
        return [label, *(" " * _LABEL + line for line in lines)]
    return [f"{name:<{_LABEL}}{line}" for name, line in zip(labels, lines, strict=False)]
