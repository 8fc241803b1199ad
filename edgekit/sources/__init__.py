"""User input: models and data as edgekit's own values."""
