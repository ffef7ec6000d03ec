"""Training: loss, optimizers, schedules, the compiled train step and FLOP counts."""
