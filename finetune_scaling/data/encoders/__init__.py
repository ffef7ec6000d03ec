"""Encoding of examples as token ids of prompt and target."""
