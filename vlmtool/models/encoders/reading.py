"""How an image encoder is read: what a recipe says of it, and what a model folder remembers."""

from dataclasses import asdict, dataclass
from typing import Any

from vlmtool.utils.tiling import Grid


@dataclass(frozen=True)
class Reading:
    """What weights behind the encoder are trained to.

    Attributes:
        select_layer: index into Hugging Face's `hidden_states` (0 the embeddings, -1 the last block).
        select_strategy: "patch" drops the first token, "full" keeps all, "auto" drops those that are no patches.
        image_size: side in pixels of what the encoder sees; None takes its config's. Position embeddings are
            interpolated to another one.
        tiles: grids (rows, columns) to choose from for each picture (AnyRes); empty shows the whole alone.
        max_patches: of an encoder of native resolution, at most so many patches a picture; None takes its processor's.
        beside: of another encoder beside this one, its type, select_layer and select_strategy; None: there is none.
        type: dotted path of the class that reads it; None: vlmtool's own.
    """

    select_layer: int = -2
    select_strategy: str = "auto"
    image_size: int | None = None
    tiles: tuple[Grid, ...] = ()
    max_patches: int | None = None
    beside: "Reading | None" = None
    type: str | None = None

    @classmethod
    def of(cls, said: Any) -> "Reading":
        """From what has these values as attributes or keys: a recipe's section, a manifest's entry, a checkpoint's
        meta. What earlier versions did not record has its default.
        """
        values = said if isinstance(said, dict) else {name: getattr(said, name, None) for name in cls.__annotations__}
        known: dict[str, Any] = {name: values[name] for name in cls.__annotations__ if values.get(name) is not None}
        if "tiles" in known:
            known["tiles"] = tuple((int(rows), int(columns)) for rows, columns in known["tiles"])
        if "beside" in known:
            known["beside"] = cls.of(known["beside"])
        return cls(**known)

    def said(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's meta and a model folder's manifest; `beside` is one of them if it is."""
        values = {**asdict(self), "tiles": [list(grid) for grid in self.tiles]}
        beside = {"beside": self.beside.said()} if self.beside is not None else {}
        return {name: value for name, value in values.items() if name != "beside"} | beside
