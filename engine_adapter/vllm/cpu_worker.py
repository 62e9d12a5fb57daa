"""The worker with the hidden tap for vLLM's CPU build, for ``--worker-cls``.

A module of its own: vLLM's CPU worker replaces CUDA's events by its own as soon as it is imported (seen with 0.26), and
no GPU worker starts after that.
"""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from engine_adapter.vllm.worker import TapMixin


class TrailCPUWorker(TapMixin, CPUWorker):
    """For vLLM's CPU build."""
