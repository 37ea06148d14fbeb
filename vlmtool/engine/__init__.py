"""Training: recipe → runner → checkpoints. The only importer of mmengine's Runner; `build.py` reads as a story."""
