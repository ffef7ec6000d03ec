"""Tokenizers of public models in, ours out."""
