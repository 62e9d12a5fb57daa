"""Plans for engines, from predictions."""

import os

# gRPC's core tells of each handshake that fails in a line that is no JSON: strangers would fill the log. It looks here
# once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
