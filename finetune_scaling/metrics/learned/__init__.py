"""Metrics computed by external programs in their own environments: client, protocol and score cache."""
