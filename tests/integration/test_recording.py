"""A real service records what its streams send; outcomes come from a real store."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from predictor_service.training.recordings import Recordings, load_recordings, read_outcomes
from predictor_service.training.shards import ShardError
from sidecar import vectors
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import (
    DIM,
    Client,
    client,
    declaration,
    decode_rows,
    hidden,
    prompt_rows,
    service,
)
from tests.live_outcomes import write_outcomes
from tests.patience import PATIENCE_S
from trail.v1 import engine_pb2, predictor_pb2


@pytest.fixture
def models(tmp_path: Path) -> Path:
    artefacts.make(tmp_path / "models" / "tiny")
    return tmp_path / "models"


def _load(folder: Path, valkey: Valkey, *engines: str) -> Recordings:
    with valkey.client() as store:
        outcomes = [outcome for engine_id in engines for outcome in read_outcomes(store, engine_id)]
    return load_recordings(folder, outcomes)


def _rows(found: Recordings) -> dict[tuple[int, int], list[float]]:
    """Hidden states by the prompt's first token, which is the request's handle, and age."""
    prompt = [int(found.responses.sequence(int(row))[0]) for row in found.states.response]
    return dict(zip(zip(prompt, found.states.age.tolist(), strict=True), found.states.hidden.tolist(), strict=True))


async def _answers(predictor: Client, engine_id: str = "e") -> list[list[float]]:
    stream = predictor.stream(engine_id)
    await stream.open(declaration(1))
    means = [list((await stream.step(declared=[declaration(2)], prompts=prompt_rows([1], hidden(1, 1)))).mean)]
    means += [list((await stream.step(decodes=decode_rows([1, 2], [age, age], hidden(2, age)))).mean) for age in (1, 2)]
    means += [list((await stream.step(decodes=decode_rows([2], [3], hidden(1, 3)), finished=[1])).mean)]
    await stream.call.done_writing()
    return means


async def test_every_row_a_stream_sent_is_recorded_with_its_request(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    folder = tmp_path / "recorded"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        await _answers(predictor)
    write_outcomes(valkey, "e", {1: 3, 2: 7})
    found = _load(folder, valkey, "e")
    sent = {(1, 0): hidden(1, 1)[0]}
    sent |= {(handle, age): hidden(2, age)[handle - 1] for age in (1, 2) for handle in (1, 2)}
    sent[2, 3] = hidden(1, 3)[0]
    assert _rows(found) == {row: vector.tolist() for row, vector in sent.items()}
    assert found.responses.sequence(0)[:3].tolist() == [1, 5, 7]
    assert found.responses.lengths.tolist() == [3, 7]
    assert found.layers == (3,)


async def test_answers_are_the_same_with_and_without_recording_and_when_it_has_stopped(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    async with service(models, valkey.url) as address, client(address) as predictor:
        plain = await _answers(predictor)
    for limit in (10**9, 0):
        folder = tmp_path / f"recorded-{limit}"
        settings = {"record_dir": folder, "record_max_bytes": limit}
        async with service(models, valkey.url, **settings) as address, client(address) as predictor:
            assert await _answers(predictor) == plain
        assert bool(list(folder.rglob("*.npz"))) == (limit > 0)


async def test_a_folder_that_cannot_be_written_costs_the_recording_only(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with (
        service(models, valkey.url, record_dir=tmp_path / "file" / "in") as address,
        client(address) as predictor,
    ):
        assert len(await _answers(predictor)) == 4


async def test_nothing_is_recorded_unless_asked(models: Path, tmp_path: Path, valkey: Valkey) -> None:
    async with service(models, valkey.url) as address, client(address) as predictor:
        await _answers(predictor)
    with pytest.raises(ShardError, match="no recordings"):
        _load(tmp_path, valkey, "e")


async def test_engines_are_kept_apart_though_their_requests_have_the_same_ids(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    folder = tmp_path / "recorded"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        await asyncio.gather(_answers(predictor, "a"), _answers(predictor, "b"))
    write_outcomes(valkey, "a", {1: 30, 2: 40})
    write_outcomes(valkey, "b", {1: 50})
    found = _load(folder, valkey, "a", "b")
    assert found.responses.lengths.tolist() == [30, 40, 50]
    assert found.left_out == {"no outcome": 1}
    assert found.responses.prompt.tolist() == [0, 1, 0], "the same prompt is the same for the split"


async def test_what_a_stream_sent_is_in_a_file_once_it_has_ended(models: Path, tmp_path: Path, valkey: Valkey) -> None:
    folder = tmp_path / "recorded"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        await _answers(predictor, "gone")
        staying = predictor.stream("staying")
        await staying.open(declaration(1))
        await staying.step(decodes=decode_rows([1], [1]))
        async with asyncio.timeout(PATIENCE_S):
            while not list(folder.rglob("*.npz")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await staying.step(decodes=decode_rows([1], [2]))
        assert [path.parent.name for path in folder.rglob("*.npz")] == ["engine-gone"]
    write_outcomes(valkey, "staying", {1: 3})
    assert sorted(_rows(_load(folder, valkey, "staying"))) == [(1, 1), (1, 2)]


async def test_a_request_that_lives_through_a_new_stream_keeps_its_rows(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    folder = tmp_path / "recorded"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        first = predictor.stream(counter=1)
        await first.open(declaration(1), declaration(2))
        await first.step(decodes=decode_rows([1, 2], [1, 1]))
        second = predictor.stream(counter=2)
        await second.open(declaration(1, age_tokens=1))
        await second.step(decodes=decode_rows([1, 2], [2, 2]))
    write_outcomes(valkey, "e", {1: 9, 2: 9})
    assert sorted(_rows(_load(folder, valkey, "e"))) == [(1, 1), (1, 2), (2, 1)]


async def test_a_refused_or_repeated_step_adds_nothing(models: Path, tmp_path: Path, valkey: Valkey) -> None:
    folder = tmp_path / "recorded"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        stream = predictor.stream()
        await stream.open(declaration(1))
        await stream.step(decodes=decode_rows([1], [1], hidden(1, 1)))
        await stream.step(step=1, decodes=decode_rows([1], [1], hidden(1, 2)))
        await stream.step(step=2, decodes=decode_rows([5], [1]))
        bad = predictor_pb2.DecodeRows(handles=[1], ages=[2], last=engine_pb2.Vectors(rows=1, dim=DIM))
        with pytest.raises(Exception, match=r"step\.decodes"):
            await stream.step(decodes=bad)
    write_outcomes(valkey, "e", {1: 9, 5: 9})
    assert _rows(_load(folder, valkey, "e")) == {(1, 1): hidden(1, 1)[0].tolist()}


async def test_bfloat16_rows_are_recorded_at_their_values(models: Path, tmp_path: Path, valkey: Valkey) -> None:
    folder = tmp_path / "recorded"
    bfloat16 = engine_pb2.DTYPE_BFLOAT16
    sent = vectors.pack(hidden(1, 4).astype(np.float32), bfloat16)
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        stream = predictor.stream()
        await stream.open(declaration(1), dtype=bfloat16)
        await stream.step(decodes=predictor_pb2.DecodeRows(handles=[1], ages=[1], last=sent))
    write_outcomes(valkey, "e", {1: 9})
    rows = _load(folder, valkey, "e").states.hidden
    assert rows.tolist() == vectors.unpack(sent, field="last").astype(np.float16).tolist()
    (file,) = folder.rglob("*.npz")
    with np.load(file) as stored:
        assert str(stored["received"]) == "bfloat16"


async def test_more_outcomes_than_one_read_takes_are_all_read(valkey: Valkey) -> None:
    write_outcomes(valkey, "e", dict.fromkeys(range(1, 2051), 5))
    with valkey.client() as store:
        found = read_outcomes(store, "e")
    assert [outcome.request_id for outcome in found] == [f"r{handle}" for handle in range(1, 2051)]


async def test_what_requests_carried_decides_the_cap_that_training_goes_by(
    models: Path, tmp_path: Path, valkey: Valkey
) -> None:
    pytest.importorskip("torch")
    from predictor_service.training.__main__ import app

    lengths = {handle: 60 if handle % 3 == 0 else 10 + handle % 41 for handle in range(1, 61)}
    folder, work = tmp_path / "recorded", tmp_path / "work"
    async with service(models, valkey.url, record_dir=folder) as address, client(address) as predictor:
        stream = predictor.stream()
        await stream.open(*(declaration(handle, max_tokens=60) for handle in lengths))
        await stream.step(prompts=prompt_rows(list(lengths)))
        for age in range(1, 60):
            living = [handle for handle, length in lengths.items() if age < length]
            await stream.step(decodes=decode_rows(living, [age] * len(living)))
    for reason in ("length", "stop"):
        ends = {handle: length for handle, length in lengths.items() if (length == 60) == (reason == "length")}
        write_outcomes(valkey, "e", ends, reason)
    given = ("--recordings", folder, "--engine-id", "e", "--redis-url", valkey.url, "--bins", "6", "--epochs", "1")
    done = CliRunner().invoke(app, ["recorded", "--work", str(work), *map(str, given)])
    assert done.exit_code == 0, done.output
    collected = json.loads((work / "notes.json").read_text())["collect"]["arguments"]
    assert collected["sampling"]["max_tokens"] == 60
    with np.load(work / "classifier.npz") as fitted:
        assert fitted["edges"][-1] == 60
