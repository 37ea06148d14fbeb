"""What happens beside the steps: checkpoints, progress, validation, sample answers."""
