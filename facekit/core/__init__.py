"""Shared machinery: device, checkpoints, the one training loop, reporting, types and errors."""
