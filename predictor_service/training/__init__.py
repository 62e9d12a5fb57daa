"""Makes model artefacts for the predictor service: collect, fit, export.

Needs the extra ``train`` (and vLLM for the responses); the service itself imports nothing from here.
"""
