"""A family of artificial languages, A, B and C: the probability of a target given its source is known exactly."""
