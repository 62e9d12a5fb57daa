"""Energy that the GPU in use has taken, by its own counter."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

INTERVAL_S = 0.02


class EnergyMeter:
    """Reads the counter of NVML in a thread; without a GPU it knows nothing."""

    def __init__(self) -> None:
        self._at_s: list[float] = []
        self._joules: list[float] = []
        self._device = _device()

    @contextlib.contextmanager
    def running(self) -> Iterator["EnergyMeter"]:
        """Reads while the context lasts; what was read before is forgotten."""
        self._at_s, self._joules = [], []
        stop = threading.Event()
        thread = threading.Thread(target=self._read, args=(stop,), name="energy", daemon=True)
        if self._device is not None:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()

    def joules(self, begin_s: float, end_s: float) -> float | None:
        """Between two monotonic times, within what was read; None where nothing was."""
        if len(self._at_s) < 2:
            return None
        begin, end = np.interp([begin_s, end_s], self._at_s, self._joules)
        return float(end - begin)

    def _read(self, stop: threading.Event) -> None:
        nvml, handle = self._device or (None, None)
        while nvml is not None:
            self._joules.append(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)
            self._at_s.append(time.monotonic())
            if stop.wait(INTERVAL_S):
                return


def _device() -> tuple[Any, Any] | None:
    """NVML and the first GPU that this process may use; None where there is none, or it counts no energy."""
    with contextlib.suppress(Exception):
        from vllm.third_party import pynvml as nvml

        nvml.nvmlInit()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        by_index = chosen.isdigit()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(chosen)) if by_index else nvml.nvmlDeviceGetHandleByUUID(chosen)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return nvml, handle
    return None
