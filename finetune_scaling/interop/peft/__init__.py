"""Adapters in the format of PEFT: import and export, one file per method."""
