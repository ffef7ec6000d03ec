"""The table of points: read, checked, and planted for tests."""
