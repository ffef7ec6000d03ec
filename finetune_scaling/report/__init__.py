"""Findings for readers: words, tables, pictures and the page."""
