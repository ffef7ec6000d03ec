"""Weights of models: safetensors files, and the leaves of runs."""
