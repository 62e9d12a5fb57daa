"""Tests of the networks need the extra ``train``; where it is not installed they are left out."""

from importlib.util import find_spec

_MODULES = (
    "test_collect.py",
    "test_export.py",
    "test_fit.py",
    "test_llm.py",
    "test_noise.py",
    "test_networks.py",
    "test_prompts.py",
    "test_refinement.py",
    "test_states.py",
    "test_tune.py",
)
collect_ignore = [] if all(map(find_spec, ("torch", "transformers", "onnx"))) else list(_MODULES)
