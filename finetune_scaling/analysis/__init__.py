"""What the fitted laws and the points say: best methods, critical sizes, claims, correlations."""
