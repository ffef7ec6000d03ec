"""What a run will need, before anyone pays: memory, time and money of a config on a slice of chips."""
