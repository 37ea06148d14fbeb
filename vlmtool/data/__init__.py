"""From files to batches: records → conversations → token ids and pixels → batches."""
