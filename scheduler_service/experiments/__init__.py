"""Experiments on live traffic: an engine serves one arm a block of time, switching back and forth."""
