"""The decoder and its pure-function face; flax.linen is used here and nowhere else."""
