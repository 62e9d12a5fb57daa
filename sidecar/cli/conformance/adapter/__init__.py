"""A scripted engine and both services around one adapter."""
