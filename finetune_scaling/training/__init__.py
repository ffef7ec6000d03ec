"""One run: optimizer, step, checkpoints, loop and record."""
