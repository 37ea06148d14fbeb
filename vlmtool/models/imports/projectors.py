"""Which projector a tool's weights are, by their names, and its settings as far as their shapes tell.

Sources: LLaVA, https://arxiv.org/abs/2304.08485 and https://arxiv.org/abs/2310.03744; MobileVLM,
https://arxiv.org/abs/2312.16886 and https://arxiv.org/abs/2402.03766; Xmodel-VLM, https://arxiv.org/abs/2405.09215;
BLIP-2, https://arxiv.org/abs/2301.12597.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmtool.models.imports.names import Rules, place, rules
from vlmtool.utils.errors import CheckpointError

ROW_END = "row_end"
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class FoundProjector:
    """A projector's class and settings; `names` leads from the tool's names to those of the class."""

    type: str
    widths: tuple[int | None, int]
    """D_vision, None where the shapes do not tell it; D_llm."""
    options: dict[str, Any]
    """Those arguments of the class that names and shapes tell."""
    names: dict[str, str]


@dataclass(frozen=True)
class _Table:
    type: str
    names: Rules
    settings: Callable[[Shapes, int | None], tuple[int | None, dict[str, Any]]]
    """D_vision and options, from the shapes by the class's names and the D_vision that the tool's config says."""


def _mlp(shapes: Shapes, _: int | None) -> tuple[int | None, dict[str, Any]]:
    depth = sum(name.endswith(".weight") for name in shapes)
    return shapes["model.0.weight"][1], {"depth": depth, "bias": "model.0.bias" in shapes}


def _linear(shapes: Shapes, _: int | None) -> tuple[int | None, dict[str, Any]]:
    return shapes["model.0.weight"][1], {"bias": "model.0.bias" in shapes}


def _ldp(shapes: Shapes, _: int | None) -> tuple[int | None, dict[str, Any]]:
    return shapes["mlp.0.weight"][1], {}


def _xdp(shapes: Shapes, vision: int | None) -> tuple[int | None, dict[str, Any]]:
    joined = shapes["mlp.0.weight"][1]
    return (vision, {"factor": joined // vision}) if vision and joined % vision == 0 else (None, {})


def _qformer(shapes: Shapes, _: int | None) -> tuple[int | None, dict[str, Any]]:
    layers = {int(found[1]): name for name in shapes if (found := re.search(r"\.layer\.(\d+)\.", name))}
    crossed = sorted({int(name.split(".layer.")[1].split(".")[0]) for name in shapes if ".crossattention." in name})
    options: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if len(crossed) > 1:
        options["cross_attention_frequency"] = crossed[1] - crossed[0]
    if "query_tokens" in shapes:
        options |= {"num_queries": shapes["query_tokens"][1], "hidden_size": shapes["query_tokens"][2]}
    inner = shapes.get("qformer.encoder.layer.0.intermediate_query.dense.weight")
    key = next((shape for name, shape in shapes.items() if name.endswith("crossattention.attention.key.weight")), None)
    return key[1] if key else None, options | ({"intermediate_size": inner[0]} if inner else {})


_MODULES = "vlmtool.models.projectors."
_BLOCK = r"model\.mb_block\.{}\.block\."
_TABLES = (
    _Table(f"{_MODULES}linear.LinearProjector", rules((r"(weight|bias)$", r"model.0.\1")), _linear),
    _Table(
        f"{_MODULES}mlp.MLPProjector",
        rules(
            (r"(?:model\.)?(\d+)\.(?=(?:weight|bias)$)", r"model.\1."),
            (r"linear_1\.(?=(?:weight|bias)$)", "model.0."),
            (r"linear_2\.(?=(?:weight|bias)$)", "model.2."),
        ),
        _mlp,
    ),
    _Table(f"{_MODULES}xdp.XDPProjector", rules((r"(mlp\.[02]\.)(?=(?:weight|bias)$)", r"\1")), _xdp),
    _Table(
        f"{_MODULES}ldpv2.LDPv2Projector",
        rules((r"mlp\.(mlp\.[02]\.)", r"\1"), (r"peg\.peg\.0\.", "positions.")),
        _ldp,
    ),
    _Table(
        f"{_MODULES}ldp.LDPProjector",
        rules(
            (r"model\.mlp\.1\.", "mlp.0."),
            (r"model\.mlp\.3\.", "mlp.2."),
            *(
                (_BLOCK.format(number + 1) + theirs, f"blocks.{number}.{ours}.")
                for number in (0, 1)
                for theirs, ours in (
                    (r"0\.0\.", "depthwise"), (r"0\.1\.", "depthwise_norm"), (r"1\.fc1\.", "excitation.fc1"),
                    (r"1\.fc2\.", "excitation.fc2"), (r"2\.0\.", "pointwise"), (r"2\.1\.", "pointwise_norm"),
                )
            ),
        ),
        _ldp,
    ),
    _Table(
        f"{_MODULES}qformer.QFormerProjector",
        rules((r"(query_tokens$|ln_vision\.|qformer\.|language_projection\.)", r"\1")),
        _qformer,
    ),
)  # fmt: skip


def find_projector(shapes: Shapes, where: str, vision_hidden_size: int | None = None) -> FoundProjector:
    """The projector whose weights have these names and shapes.

    Args:
        shapes: by the tool's names, without what stands before all of them.
        where: what holds them, for the error.
        vision_hidden_size: D_vision where the tool's config says it.

    Raises:
        CheckpointError: they are those of none that vlmtool has.
    """
    wanted = [name for name in shapes if name != ROW_END]
    for table in _TABLES:
        names = {name: target for name in wanted if isinstance(target := place(table.names, name), str)}
        if len(names) < len(wanted) or not wanted:
            continue
        ours = {target: shapes[name] for name, target in names.items()}
        if (llm := _last_width(ours)) is None:
            continue
        try:
            vision, options = table.settings(ours, vision_hidden_size)
        except (KeyError, IndexError):
            continue
        return FoundProjector(table.type, (vision, llm), options, names)
    raise CheckpointError(
        f"{where}: its projector is none that vlmtool has: it has {_first(wanted)}.\n"
        "Known: one linear layer, MLPs, LDP, LDPv2, XDP and BLIP-2's Q-Former."
    )


def _last_width(ours: Shapes) -> int | None:
    """D_llm: rows of the last linear layer; 0 for a Q-Former without one."""
    if any(name.startswith("qformer.") for name in ours):
        return ours.get("language_projection.weight", (0,))[0]
    return next((shape[0] for name, shape in ours.items() if re.fullmatch(r"(?:model|mlp)\.0\.weight", name)), None)


def _first(names: Iterable[str]) -> str:
    found = list(names)
    return f"{len(found)} weights, first '{found[0]}'" if found else "no weights"
