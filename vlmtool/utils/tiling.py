"""AnyRes: how a picture is cut into square tiles, and which of their tokens show the picture rather than padding.

The data side counts with it before a picture is decoded, the model orders its tokens by it; so it stands below both.

Source: LLaVA-NeXT, https://llava-vl.github.io/blog/2024-01-30-llava-next/; the arithmetic is that of transformers'
LlavaNext classes, so that a model of theirs makes the same tokens.
"""

from collections.abc import Sequence

Grid = tuple[int, int]  # rows and columns of tiles


def best_grid(height: int, width: int, grids: Sequence[Grid], side: int) -> Grid:
    """The grid that shows most of a picture's pixels; of several, the one that wastes least.

    Args:
        height, width: of the picture, in pixels.
        side: of a tile, in pixels.
    """
    from transformers.image_processing_utils import select_best_resolution

    resolutions = [(rows * side, columns * side) for rows, columns in grids]
    best = select_best_resolution((height, width), resolutions)
    return best[0] // side, best[1] // side


def padding(height: int, width: int, token_rows: int, token_columns: int) -> tuple[int, int]:
    """Rows of tokens above and below the picture, and columns left and right of it, that show padding alone.

    Args:
        height, width: of the picture, in pixels.
        token_rows, token_columns: of all tiles together.

    Returns:
        So many rows on each of the two sides, and columns; one of both is 0.
    """
    if width / height > token_columns / token_rows:
        shown = int(round(height * (token_columns / width), 7))
        return (token_rows - shown) // 2, 0
    shown = int(round(width * (token_rows / height), 7))
    return 0, (token_columns - shown) // 2


def num_tiled_tokens(height: int, width: int, grid: Grid, side: int) -> int:
    """Tokens of a picture: the whole at low resolution, then the tiles without padding, a separator after each row.

    Args:
        grid: of its tiles.
        side: rows (and columns) of tokens of one view.
    """
    rows, columns = grid[0] * side, grid[1] * side
    above, left = padding(height, width, rows, columns)
    shown_rows, shown_columns = rows - 2 * above, columns - 2 * left
    return side * side + shown_rows * (shown_columns + 1)
