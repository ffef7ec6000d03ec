"""Models of other projects: their files in, our configs and parameters out."""
