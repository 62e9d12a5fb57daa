"""Remaining-length predictions from hidden states."""

import os

# ONNX Runtime can send telemetry to its makers. A service beside other people's prompts sends nothing to anybody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# gRPC's core tells of each handshake that fails in a line that is no JSON: strangers would fill the log. It looks here
# once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
