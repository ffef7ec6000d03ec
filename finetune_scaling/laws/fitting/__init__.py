"""Fits of declared laws to points: the compiled program, the paper's two stages, one law alone."""
