"""AnyRes: the tokens of a picture in tiles, in reading order over the whole picture.

Source: LLaVA-NeXT, https://llava-vl.github.io/blog/2024-01-30-llava-next/
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtool.utils.tiling import padding


def put_together(views: Sequence[Tensor], layouts: Tensor, row_end: Tensor | None) -> list[Tensor]:
    """Image embeddings of each picture: its whole view, then row by row what its tiles show of it.

    Args:
        views: (N', D) of each view, picture after picture, the whole before its tiles; N' a square.
        layouts: (I, 4) rows and columns of tiles, height and width in pixels (`Pixels.layouts`).
        row_end: (D,) token after each row; None leaves it out.

    Returns:
        For each picture (N'_i, D): tokens that show padding alone are left out.
    """
    pictures, first = [], 0
    for rows, columns, height, width in layouts.tolist():
        tiles = torch.stack(list(views[first + 1 : first + 1 + rows * columns]))
        pictures.append(torch.cat([views[first], _rows_of(tiles, rows, columns, height, width, row_end)]))
        first += 1 + rows * columns
    return pictures


def _rows_of(tiles: Tensor, rows: int, columns: int, height: int, width: int, row_end: Tensor | None) -> Tensor:
    """(rows · columns, N', D) → (tokens, D)."""
    side = round(tiles.shape[1] ** 0.5)
    grid = tiles.unflatten(1, (side, side)).unflatten(0, (rows, columns))
    grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (rows · side, columns · side, D)
    above, left = padding(height, width, rows * side, columns * side)
    shown = grid[above : len(grid) - above, left : grid.shape[1] - left]
    if row_end is not None:
        shown = torch.cat([shown, row_end.to(shown).expand(len(shown), 1, -1)], 1)
    return shown.flatten(0, 1)
