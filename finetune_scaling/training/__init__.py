"""How a model is trained: optimizer, step, loop, checkpoints."""
