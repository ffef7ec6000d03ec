"""Conclusions from fitted laws and points: best methods, critical sizes, claims, correlations."""
