"""The one training loop, its data and its checkpoints."""
