"""Weights on the disk: safetensors files read and written in parts, and those of a run of ours leaf by leaf."""
