"""Tuning methods as data: what trains, which parameters are added, where they enter, and their defaults."""
