"""Records with few words."""

from collections.abc import Mapping, Sequence

import numpy as np

from engine_adapter.records import Arrived, Finished, Rows, Step, handle_of

FLOAT32 = 3


def arrived(request_id: str, *, prompt: Sequence[int] = (1, 2, 3), age: int = 0, handle: int = 0) -> Arrived:
    name = handle or handle_of(request_id)
    return Arrived(name, request_id, 10.0, age, 256, 0, 0, "", np.array(prompt, np.uint32))


def finished(request_id: str, output_tokens: int = 10) -> Finished:
    return Finished(handle_of(request_id), 1, output_tokens, 2.0, 0.5, 1, 30)


def step(
    number: int = 1,
    running: Mapping[str, int] | None = None,
    *,
    plan: int = 0,
    preempted: Sequence[str] = (),
    by_plan: int = 0,
) -> Step:
    """``running``: request id -> age."""
    batch = running or {}
    ages = np.array(list(batch.values()), np.uint32)
    return Step(
        step=number,
        monotonic_ns=0,
        plan_number=plan,
        duration_s=0.02,
        free_kv_blocks=50,
        waiting=0,
        running=np.array([handle_of(name) for name in batch], np.uint64),
        ages=ages,
        computed_tokens=ages + 3,
        preempted=np.array([handle_of(name) for name in preempted], np.uint64),
        preempted_by_plan=by_plan,
    )


def rows(ages: Mapping[str, int], *, number: int = 1, dim: int = 2) -> Rows:
    """``ages``: request id -> age. Each vector is [step, age, ...]."""
    return Rows(
        step=number,
        dtype=FLOAT32,
        dim=dim,
        handles=np.array([handle_of(name) for name in ages], np.uint64),
        ages=np.array([*ages.values()], np.uint32),
        vectors=np.array([[number, *[age] * (dim - 1)] for age in ages.values()], np.float32).reshape(-1, dim),
    )
