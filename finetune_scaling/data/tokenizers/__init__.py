"""Tokenizers: SentencePiece models of our own, and those of public models."""
