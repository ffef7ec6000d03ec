"""Tuning methods as data: which parameters train, what is added to the model, and defaults."""
