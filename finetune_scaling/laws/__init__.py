"""Scaling laws: tables of points, functional forms, fits and their uncertainty."""
