"""The parts of a model."""

# As a picture passes them. The optimiser's groups are in this order, and resuming a run relies on that.
PARTS = ("vision_encoder", "projector", "llm")
BESIDE = "vision_encoder.beside"  # key of the second encoder of a pair: no part of its own, but a base of its own
PREFIX_TUNING = "PREFIX_TUNING"  # peft's `peft_type` of a prefix
