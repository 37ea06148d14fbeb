"""Results of benchmarks that lie beside a model folder, where `vlmtool run` writes them."""

from pathlib import Path
from typing import Any

from vlmtool.utils.files import read_json

SCORES = "scores"  # beside a model folder: a folder of results for each benchmark


def scores_beside(folder: Path) -> list[dict[str, Any]]:
    """{benchmark, what, score, folder} of the results in `SCORES` beside a model folder that are this folder's.

    The folder is known by its name: a run folder that was moved as a whole still tells. What cannot be read is left
    out, as it is made again at the next `run`.
    """
    place = folder.absolute().parent / SCORES
    if not place.is_dir():
        return []
    from vlmtool.evaluation.report import METRICS_FILE

    found = []
    for file in sorted(place.glob(f"*/{METRICS_FILE}")):
        try:
            metrics = read_json(file)
            model = Path(metrics["made_by"]["model"])
            what, score = metrics["headline"] or ("", None)
            entry = {"benchmark": metrics["benchmark"], "what": what, "score": score, "folder": str(file.parent)}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if model.name == folder.absolute().name:
            found.append(entry)
    return found
