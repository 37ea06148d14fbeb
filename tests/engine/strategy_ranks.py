"""One of several processes that train a recipe under one strategy after another: `RECIPE FOLDER JSON`.

JSON: [[name of the run folder, [overrides], checkpoint to go on from or null], …]. All in one process, since each
start imports for seconds.
"""

import json
import sys
from pathlib import Path

from vlmtool.engine.train import train

if __name__ == "__main__":
    recipe, folder, runs = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    for name, overrides, start in runs:
        train(recipe, overrides, folder / name, resume_from=start and folder / start, launcher="pytorch")
