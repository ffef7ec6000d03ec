"""The laws as declared data: formula, parameters with their bounds, factors and source."""
