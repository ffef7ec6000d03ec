"""The content of a directory that this project wrote, read from its small files without reading arrays."""
