"""Fits of laws to points: minimization of the Huber objective, two-stage joint fits, one-stage fits."""
