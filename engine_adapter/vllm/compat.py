"""Refuses, at start-up and in one line, what the adapter does not support."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from packaging.version import Version

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheManager

OLDEST, NEWEST = "0.26", "0.33"
# What the mixin calls or overrides, with the parameters that it relies on.
_RELIED_ON = {
    "schedule": ("self", "throttle_prefills"),
    "add_request": ("self", "request"),
    "_preempt_request": ("self", "request", "timestamp"),
    "_free_request": ("self", "request"),
    "get_request_counts": ("self",),
}


class UnsupportedEngine(RuntimeError):
    """This vLLM, or this configuration of it, does not work with the adapter."""


def check_version() -> None:
    """Raises UnsupportedEngine outside the supported versions, or where a signature has changed."""
    import vllm
    from vllm.v1.core.sched.scheduler import Scheduler

    version = Version(vllm.__version__.split("+")[0])
    if not Version(OLDEST) <= Version(f"{version.major}.{version.minor}") <= Version(NEWEST):
        raise UnsupportedEngine(f"vLLM {vllm.__version__}: supported are {OLDEST} to {NEWEST}")
    for name, wanted in _RELIED_ON.items():
        found = tuple(inspect.signature(getattr(Scheduler, name)).parameters)
        if found[: len(wanted)] != wanted:
            raise UnsupportedEngine(f"vLLM {vllm.__version__}: Scheduler.{name}{found} should start with {wanted}")


def watermark_blocks(manager: KVCacheManager) -> int:
    """KV blocks that vLLM by itself keeps free when it admits a request.

    Raises UnsupportedEngine where it keeps no such number.
    """
    import vllm

    if not isinstance(getattr(manager, "watermark_blocks", None), int):
        raise UnsupportedEngine(f"vLLM {vllm.__version__}: KVCacheManager has no watermark_blocks")
    return manager.watermark_blocks


def check_config(config: VllmConfig) -> None:
    """Raises UnsupportedEngine for configurations that would serve wrongly or without effect."""
    faults = {
        "--pipeline-parallel-size above 1": config.parallel_config.pipeline_parallel_size > 1,
        "--data-parallel-size above 1": config.parallel_config.data_parallel_size > 1,
        "--kv-transfer-config": config.kv_transfer_config is not None,
        "speculative decoding": config.speculative_config is not None,
        "pooling models": config.model_config is not None and config.model_config.runner_type == "pooling",
        "--scheduling-policy priority": config.scheduler_config.policy != "fcfs",
    }
    for name, present in faults.items():
        if present:
            raise UnsupportedEngine(f"{name} is not supported by the trail adapter; serve without it")
