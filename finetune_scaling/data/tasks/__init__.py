"""Named tasks, one short file each; a file NAME.py that exports TASK is the task NAME."""
