#!/usr/bin/env bash
# Generates trail.v1 for Python into OUT (default: beside the .proto files, where it is checked in).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
python -m grpc_tools.protoc -I "$here" --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="$out" --mypy_grpc_out="$out" "$here"/trail/v1/*.proto
# Files without services need no stubs.
rm -f "$out"/trail/v1/{engine,state}_pb2_grpc.py*
