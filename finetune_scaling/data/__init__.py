"""Text sources, tasks, tokenizers, training objectives, packing and batches."""
