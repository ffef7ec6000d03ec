"""Tokenizers: SentencePiece models that this project trains, and the tokenizers of public models."""
