"""Message sequences for a predictor or a scheduler service."""
