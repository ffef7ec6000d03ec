"""The table of points: read from a file or frame, checked, and averaged over seeds."""
