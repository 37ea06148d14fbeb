"""The parts of a model."""

# As a picture passes them. The optimiser's groups are in this order, and resuming a run relies on that.
PARTS = ("vision_encoder", "projector", "llm")
