"""What is recorded of a running vLLM is what the offline collection reads of the same tokens."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import redis

from predictor_service.training.collect import Responses, Sampling, collect
from predictor_service.training.prompts import TEST, Prompt, prompt_token_ids
from predictor_service.training.recordings import Outcome, Recordings, load_recordings, read_outcomes
from predictor_service.training.states import read_states
from sidecar.cli.demo.engine import attached_engine, share_cores
from sidecar.cli.demo.load import Sample, send
from sidecar.cli.demo.load import Sampling as ClientSampling
from tests.conftest import start_valkey
from tests.e2e.conftest import PROMPTS, SLOTS
from tests.e2e.parts import Service, until

pytestmark = pytest.mark.vllm

ENGINE_ID = f"recorded-{os.getpid()}"
ASKED = PROMPTS[:6]
SAMPLING = ClientSampling(temperature=0.7, max_tokens=40)
RELATIVE_ERROR = 1e-4


@dataclass(frozen=True)
class Served:
    """Prompts that a real vLLM answered, and what the predictor service recorded meanwhile."""

    samples: list[Sample]
    recordings: Recordings


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    # A short path: Unix sockets allow about 100 characters.
    with tempfile.TemporaryDirectory(prefix="trail-") as name:
        folder = Path(name)
        store = start_valkey(folder)
        services = [Service(part, store.url, folder / f"{part}.log") for part in ("predictor", "scheduler")]
        predictor, scheduler = services
        os.environ["TRAIL_PREDICTOR_RECORD_DIR"] = str(folder / "recorded")
        try:
            for service in services:
                service.start()
            with attached_engine(
                model, SLOTS, share_cores(), folder / "engine.log", ENGINE_ID, predictor.address, scheduler.address,
                flags=["--rows", "hidden", "--tap-share", "1"],
            ) as engine:  # fmt: skip
                samples = send(engine.url, ASKED, [0.0] * len(ASKED), SAMPLING)
                with redis.Redis.from_url(store.url) as client:
                    until(lambda: len(read_outcomes(client, ENGINE_ID)) == len(ASKED), "all outcomes are noted")
                    outcomes = read_outcomes(client, ENGINE_ID)
            _end(predictor)
            yield Served(samples, _load(folder, outcomes))
        finally:
            del os.environ["TRAIL_PREDICTOR_RECORD_DIR"]
            for service in services:
                if service.process is not None:
                    service.process.kill()
            store.stop()


def _end(service: Service) -> None:
    """SIGTERM: what is still in memory is written."""
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(30)


def _load(folder: Path, outcomes: list[Outcome]) -> Recordings:
    return load_recordings(folder / "recorded", outcomes)


def _with_answers(recordings: Recordings, samples: list[Sample], model: Path) -> Responses:
    """The recorded responses with the tokens that the client got, which the predictor service never sees."""
    prompts = [tuple(ids) for ids in prompt_token_ids(model, ASKED)]
    answers = dict(zip(prompts, (sample.token_ids for sample in samples), strict=True))
    recorded = recordings.responses
    tokens = recorded.tokens.copy()
    for row in range(len(recorded.prompt)):
        begin, end = int(recorded.offsets[row]), int(recorded.offsets[row] + recorded.prompt_tokens[row])
        answer = answers[tuple(tokens[begin:end].tolist())]
        assert len(answer) == recorded.lengths[row]
        tokens[end : end + len(answer)] = answer
    return replace(recorded, tokens=tokens)


def test_the_recording_equals_the_hidden_states_read_offline(served: Served, model: Path) -> None:
    found = served.recordings
    assert not found.left_out
    responses = _with_answers(found, served.samples, model)
    offline = read_states(model, responses, np.arange(len(responses.prompt)), found.layers, None, seed=0)
    # The engine may drop a row when a newer one of the same request is there already: the newest wins.
    at = {(int(r), int(a)): i for i, (r, a) in enumerate(zip(offline.response, offline.age, strict=True))}
    rows = [at[int(r), int(a)] for r, a in zip(found.states.response, found.states.age, strict=True)]
    assert len(rows) > 0.9 * len(offline.age)
    assert set(found.states.response.tolist()) == set(range(len(ASKED)))
    recorded, read = found.states.hidden.astype(np.float64), offline.hidden[rows].astype(np.float64)
    errors = np.linalg.norm(recorded - read, axis=1) / np.linalg.norm(read, axis=1)
    assert np.median(errors) < RELATIVE_ERROR
    assert np.linalg.norm(recorded - read) / np.linalg.norm(read) < RELATIVE_ERROR
    assert found.states.remaining.tolist() == offline.remaining[rows].tolist()


def test_a_cut_response_is_known_as_cut(served: Served) -> None:
    responses = served.recordings.responses
    at_cap = responses.lengths == SAMPLING.max_tokens
    assert at_cap.any()
    assert np.array_equal(responses.finished, ~at_cap)


def test_vllm_collects_what_its_sampling_and_prompts_say(model: Path, tmp_path: Path) -> None:
    """Greedy answers in float32 by vLLM and by transformers are the same tokens."""
    ids = prompt_token_ids(model, ASKED[:4])
    prompts = [Prompt(text, "demo", tuple(one)) for text, one in zip(ASKED, ids, strict=False)]
    split, greedy = np.full(len(prompts), TEST), Sampling(temperature=0.0, max_tokens=12)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 2, "max_model_len": 512}
    by_vllm = collect(tmp_path / "a", model, prompts, split, greedy, backend="vllm", shard_responses=3, **engine)
    by_transformers = collect(tmp_path / "b", model, prompts, split, greedy, backend="transformers", shard_responses=3)
    for name, value in vars(by_vllm).items():
        assert np.array_equal(getattr(by_transformers, name), value), name
