"""Execution of one run, from its config to its result record."""
