"""Encoders: from what an image processor makes to patch features."""
