"""The code that XTuner's layout has beside a projector's weights. Both files are copied as they are."""
