"""Uncertainty of fitted laws: bootstrap, jackknife, variance components and intervals."""
