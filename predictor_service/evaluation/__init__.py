"""How good an artefact is on requests that nobody has seen, as the service serves them; ``trail evaluate``.

Needs the extra ``train``; the service itself imports nothing from here.
"""
