"""protobuf messages to arrays and back. Everything malformed is refused here, naming field and limit."""

import re
from collections.abc import Iterable, Sequence

import grpc
import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.prompt import Prompt
from predictor_service.step import Declaration, Predictions, Rows, Step
from sidecar import vectors
from sidecar.errors import InvalidField, Refused
from trail.v1 import engine_pb2, predictor_pb2

ENGINE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MAX_REQUEST_ID_BYTES = 256
MAX_TOKENS = 10_000_000
ENDED_AT_MOST = 4
"""Times the requests that may live at once: so many may end in one message."""


def engine_id(value: str) -> str:
    if not ENGINE_ID.fullmatch(value):
        raise InvalidField("engine_id", f"{value!r:.200} is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return value


def epoch_text(epoch: engine_pb2.Epoch) -> str:
    """The epoch as the store holds it. Raises InvalidField for incarnation 0, which nobody may use."""
    if epoch.incarnation == 0:
        raise InvalidField("epoch.incarnation", "must not be 0")
    return f"{epoch.incarnation}:{epoch.counter}"


def check_layout(message: predictor_pb2.OpenPredict, artefact: Artefact) -> None:
    """Whether the vectors that a stream announces suit the model; any float dtype does.

    Raises InvalidField, or Refused where they are projected and the model does not read that.
    """
    dim = artefact.reader(message.projection).dim
    if message.dim != dim:
        raise InvalidField("open.dim", f"{message.dim}", limit=f"{dim} of model {artefact.name}")
    if message.dtype not in (
        engine_pb2.DTYPE_FLOAT16,
        engine_pb2.DTYPE_BFLOAT16,
        engine_pb2.DTYPE_FLOAT32,
    ):
        raise InvalidField("open.dtype", f"{message.dtype} is not float16, bfloat16 or float32")


def check_put(message: predictor_pb2.PutPredictionRequest) -> None:
    if not 0 < message.output_tokens <= MAX_TOKENS:
        raise InvalidField("output_tokens", f"{message.output_tokens}", limit=f"above 0, to {MAX_TOKENS}")
    if not 0 <= message.standard_error_tokens <= MAX_TOKENS:
        raise InvalidField("standard_error_tokens", f"{message.standard_error_tokens}", limit=f"0 to {MAX_TOKENS}")


def declarations(messages: Iterable[engine_pb2.RequestDeclaration], *, field: str) -> tuple[Declaration, ...]:
    return tuple(_declaration(message, f"{field}[{i}]") for i, message in enumerate(messages))


def check_counts(declared: Sequence[object], ended: Sequence[object], most: int, *, field: str) -> None:
    """Before anything is made of them: a message is not to hold everybody up only to be refused.

    Raises Refused for more new requests than may live, and InvalidField for more ends than there can be.
    """
    if len(declared) > most:
        text = f"declared: more than {most} living requests (max_requests_per_engine)"
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text, retry_after_ms=1000)
    if len(ended) > ENDED_AT_MOST * most:
        raise InvalidField(field, f"{len(ended)} requests", limit=f"{ENDED_AT_MOST} times max_requests_per_engine")


def step(message: predictor_pb2.PredictStep, *, dim: int, max_rows: int, projection: str = "") -> Step:
    """A step whose vectors have `dim` columns and went through `projection`. Raises InvalidField."""
    rows = len(message.prompts.handles) + len(message.decodes.handles)
    if rows > max_rows:
        raise InvalidField("step", f"{rows} rows", limit=f"max_rows_per_step {max_rows}")
    return Step(
        number=message.step,
        declared=declarations(message.declared, field="step.declared"),
        prompts=_prompts(message.prompts, dim),
        decodes=_decodes(message.decodes, dim),
        finished=np.array(message.finished, dtype=np.uint64),
        projection=projection,
    )


def predictions(
    found: Predictions, epoch: engine_pb2.Epoch, *, degraded: bool = False
) -> predictor_pb2.StepPredictions:
    errors = [
        predictor_pb2.RowError(
            handle=problem.handle,
            status=predictor_pb2.RowStatus.ValueType(problem.status),
            message=problem.message,
        )
        for problem in found.problems
    ]
    return predictor_pb2.StepPredictions(
        epoch=epoch,
        step=found.step,
        handles=found.handles.tolist(),
        ages=found.ages.tolist(),
        stages=found.stages.tolist(),
        mean=found.mean.tolist(),
        median=found.median.tolist(),
        p10=found.p10.tolist(),
        p90=found.p90.tolist(),
        initial=found.initial.tolist(),
        errors=errors,
        degraded=degraded,
    )


def model(artefact: Artefact) -> predictor_pb2.Model:
    manifest, cut = artefact.manifest, artefact.projected
    return predictor_pb2.Model(
        name=manifest.name,
        served_model=manifest.served_model,
        layers=manifest.layers,
        dim=manifest.dim,
        dtype=engine_pb2.DTYPE_FLOAT16,
        bin_edges=manifest.edges,
        bin_representatives=manifest.representatives,
        sha256=manifest.files.model,
        projection=None if cut is None else predictor_pb2.Projection(id=cut.id, dim=cut.project.dim),
    )


def _declaration(message: engine_pb2.RequestDeclaration, field: str) -> Declaration:
    if message.handle == 0:
        raise InvalidField(f"{field}.handle", "must not be 0")
    size = len(message.request_id.encode())
    if not 1 <= size <= MAX_REQUEST_ID_BYTES:
        raise InvalidField(f"{field}.request_id", f"{size} bytes", limit=f"1 to {MAX_REQUEST_ID_BYTES}")
    ids = np.array(message.prompt_token_ids, dtype=np.uint32)
    prompt = Prompt(ids, message.prompt_tokens or len(ids))
    return Declaration(message.handle, message.request_id, prompt, message.age_tokens, message.max_tokens)


def _prompts(message: predictor_pb2.PromptRows, dim: int) -> Rows:
    return _rows("step.prompts", message.handles, [0] * len(message.handles), message.last, dim)


def _decodes(message: predictor_pb2.DecodeRows, dim: int) -> Rows:
    if len(message.ages) != len(message.handles):
        raise InvalidField("step.decodes.ages", f"{len(message.ages)} entries for {len(message.handles)} handles")
    return _rows("step.decodes", message.handles, message.ages, message.last, dim)


def _rows(field: str, handles: Sequence[int], ages: Sequence[int], last: engine_pb2.Vectors, dim: int) -> Rows:
    if len(handles) == 0 and last.rows == 0:
        hidden = np.zeros((0, dim), dtype=np.float16)
    else:
        _check_vectors(f"{field}.last", last, len(handles), dim)
        hidden = vectors.unpack(last, field=f"{field}.last")
    return Rows(np.array(handles, dtype=np.uint64), np.array(ages, dtype=np.int64), hidden)


def _check_vectors(field: str, message: engine_pb2.Vectors, rows: int, dim: int) -> None:
    if message.rows != rows:
        raise InvalidField(f"{field}.rows", f"{message.rows} rows for {rows} handles")
    if message.dim != dim:
        raise InvalidField(f"{field}.dim", f"{message.dim}", limit=f"the model's dim {dim}")
