"""Text metrics with signatures, learned metrics, and significance tests."""
