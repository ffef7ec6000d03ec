"""A self-contained HTML page of generated texts with sentence-level scores."""
