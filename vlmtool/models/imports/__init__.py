"""Models and checkpoints of other tools. `kind.py` tells what a path is; each layout has a table of names."""
