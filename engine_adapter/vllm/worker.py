"""The worker with the hidden tap, for ``--worker-cls``; the CPU build's is in `cpu_worker`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.v1.worker.gpu_worker import Worker

from engine_adapter.bell import Ringer
from engine_adapter.ring import RingProducer
from engine_adapter.vllm import compat, projecting, runner_v1, runner_v2, settings
from engine_adapter.vllm.shipping import CopiedRows
from engine_adapter.vllm.tap import Shipper, Tap

logger = logging.getLogger("vllm.trail")

if TYPE_CHECKING:
    from types import ModuleType

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_worker import Worker as _Base
else:
    _Base = object


class TapMixin(_Base):
    """Goes in front of one of vLLM's worker classes."""

    _tap: Tap | None = None

    @property
    def _runner(self) -> ModuleType:
        return runner_v2 if getattr(self, "use_v2_model_runner", False) else runner_v1

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and makes it return the tapped layers.

        Raises:
            UnsupportedEngine: this model or this runner cannot be tapped; the message says which.
        """
        compat.check_config(self.vllm_config)
        super().load_model(*args, **kwargs)
        layers = settings.read(self.vllm_config).layers
        if not layers:
            return
        model = self.model_runner.get_model()
        if not hasattr(model, "set_aux_hidden_state_layers"):
            raise compat.UnsupportedEngine(f"{type(model).__name__} has no auxiliary hidden states to tap")
        hidden_layers = self.model_config.hf_text_config.num_hidden_layers
        if not all(0 <= layer < hidden_layers for layer in layers):
            raise compat.UnsupportedEngine(f"trail.layers {layers}: the model has layers 0 to {hidden_layers - 1}")
        model.set_aux_hidden_state_layers(tuple(layers))
        self.model_runner.use_aux_hidden_state_outputs = True

    def compile_or_warm_up_model(self, *args: Any, **kwargs: Any) -> Any:
        """Compiles what ships rows, warms up, then arms the tap: warm-up samples for requests that nobody sent."""
        given = settings.read(self.vllm_config)
        # The tapped state is the same on every tensor-parallel rank: one of them ships it.
        tapped = given.layers and get_tensor_model_parallel_rank() == 0
        shipper = self._shipper(given) if tapped else None
        result = super().compile_or_warm_up_model(*args, **kwargs)
        if shipper is not None:
            self._tap = Tap(given.predict_every_tokens, shipper, share=given.tap_share)
            logger.info("trail: layers %s tapped, rows as %s", list(given.layers), given.row_dtype)
        return result

    def _shipper(self, given: settings.AdapterSettings) -> Shipper:
        """Rows go as they are, or projected."""
        ring = RingProducer(given.paths.rows, given.row_ring_bytes, Ringer(given.paths.row_bell))
        layers, width, read = len(given.layers), self.model_config.get_hidden_size(), self.model_config.dtype
        if given.projection is None:
            return self._out_of_device(ring, given.row_dtype, layers, width, read)
        project = projecting.load(given.projection, layers * width)
        inner = self._out_of_device(ring, "float16", 1, project.dim, projecting.ROW_TYPE)
        most_rows = self.scheduler_config.max_num_seqs
        return projecting.ProjectedRows(inner, project, layers, read, most_rows, self.device)

    def _out_of_device(self, ring: RingProducer, row_dtype: str, layers: int, width: int, read: Any) -> Shipper:
        """A GPU writes rows by itself, where its driver can pin the ring."""
        if self.device.type == "cuda":
            try:
                from engine_adapter.vllm.streaming import StreamedRows

                most_rows = self.scheduler_config.max_num_seqs
                return StreamedRows(ring, row_dtype, layers, width, read, most_rows, self.device)
            except (ImportError, RuntimeError) as error:
                logger.warning("trail: rows are copied on the step, which slows it: %s", error)
        return CopiedRows(ring, row_dtype)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        # Not with the pass: where the last requests end, a step without one tells of them.
        if self._tap is not None:
            self._tap.forget(scheduler_output.finished_req_ids)
        return super().execute_model(scheduler_output, *args, **kwargs)

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        if self._tap is not None and self._tap.due:
            newest = self._runner.newest_pass(self.model_runner)
            if newest is not None:
                self._tap.capture(*newest)
        return super().sample_tokens(*args, **kwargs)


class TrailGPUWorker(TapMixin, Worker):
    """For CUDA."""
