"""What is in a directory that this project wrote, told from its small files: no array is read."""
