"""The process beside the engine: it reads the rings, owns all gRPC, and writes the plan board."""
