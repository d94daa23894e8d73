"""Tasks, one per file: what a training step computes. The loop is in core."""
