"""Planning: memory, time and price of a run on a slice of chips, before it is started."""
