"""Remaining-length predictions from hidden states."""

import os

# ONNX Runtime can send telemetry to its makers. A service beside other people's prompts sends nothing to anybody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
