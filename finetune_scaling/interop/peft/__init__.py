"""Adapters in the format of PEFT, both ways."""
