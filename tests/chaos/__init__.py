"""Faults under load, on a simulated engine with real rings, a real agent, real services and a real store."""
