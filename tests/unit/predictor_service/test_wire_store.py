"""Records in the store are messages of the contract, written many at a time."""

import numpy as np
import pytest

from predictor_service import wire_store
from predictor_service.step import Records, Stage
from tests.unit.predictor_service.records import listed
from trail.v1 import predictor_pb2, state_pb2

LARGEST_HANDLE, LARGEST_STEP, LARGEST_AGE = 2**64 - 1, 2**63 - 1, 2**32 - 1


def records(count: int, bins: int = 3, model: str = "a model: ä") -> Records:
    rng = np.random.default_rng(count)
    return Records(
        request_ids=[f"r{index}" for index in range(count)],
        handles=np.array([LARGEST_HANDLE, 1, 2][:count], np.uint64),
        steps=np.array([0, LARGEST_STEP, 300][:count], np.uint64),
        ages=np.array([127, 128, LARGEST_AGE][:count]),
        stages=np.array([Stage.PROMPT, Stage.DECODE, Stage.EXTERNAL][:count]),
        **{name: rng.uniform(0, 1e6, count) for name in ("r0", "r1", "mean", "median", "p10", "p90")},
        q=rng.dirichlet(np.ones(bins), count),
        model=model,
    )


@pytest.mark.parametrize("bins", [1, 31, 32, 4000])
def test_each_is_read_by_protobuf_as_what_it_was(bins: int) -> None:
    whole = records(3, bins)
    for record, (request_id, content) in zip(listed(whole), wire_store.pack(whole).items(), strict=True):
        found = state_pb2.StoredPosterior.FromString(content)
        single = dict.fromkeys(("r0", "r1", "mean", "median", "p10", "p90"))
        single = {name: float(np.float32(getattr(record, name))) for name in single}
        assert record.request_id == request_id
        assert found == state_pb2.StoredPosterior(
            handle=record.handle,
            step=record.step,
            age_tokens=record.age_tokens,
            stage=predictor_pb2.Stage.ValueType(record.stage),
            posterior=record.q,
            model=record.model,
            **single,
        )


def test_every_field_of_the_contract_is_written() -> None:
    (content,) = wire_store.pack(records(1)).values()
    message = state_pb2.StoredPosterior.FromString(content)
    message.step = 1
    assert {field.name for field, _ in message.ListFields()} == set(message.DESCRIPTOR.fields_by_name)


def test_none_are_no_records() -> None:
    assert wire_store.pack(records(0)) == {}


def test_another_models_name_makes_another_template() -> None:
    long = wire_store.pack(records(1, model="m" * 200))["r0"]
    assert state_pb2.StoredPosterior.FromString(long).model == "m" * 200
