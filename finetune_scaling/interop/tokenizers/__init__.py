"""Export of tokenizers."""
