"""What the prompt kinds read of a prompt, what that costs, and which artefacts are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor_service.artefact import Artefact, ArtefactError, load
from predictor_service.prompt import MOST_COUNTED_IDS, Prompt, excerpt, features
from predictor_service.prompt_sequence import PADDING, Frame, TokenIds, batches, padded
from tests import artefacts

FRAME = Frame(np.array(artefacts.PREFIX, dtype=np.uint32), np.array(artefacts.SUFFIX, dtype=np.uint32))
READ = TokenIds(FRAME, most_ids=8, vocabulary=artefacts.VOCABULARY)
KINDS = ["tokens", "text"]


def prompt(*ids: int) -> Prompt:
    return Prompt(np.array(ids, dtype=np.uint32), len(ids))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "text":
        pytest.importorskip("tokenizers")
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return artefacts.make(tmp_path, prompt_kind=kind)


def edit_prompt(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    artefacts.edit(folder, prompt=manifest["prompt"] | changes)


def test_the_frame_of_the_chat_template_is_left_out_where_it_is_there() -> None:
    assert READ(prompt(3, 4, 5, 6, 8, 9)).tolist() == [5, 6]
    assert READ(prompt(3, 4, 5, 6)).tolist() == [5, 6]
    assert READ(prompt(4, 3, 5, 8, 9)).tolist() == [4, 3, 5]
    assert READ(prompt(3)).tolist() == [3]


def test_ids_beyond_the_vocabulary_and_empty_prompts_are_one_unknown_id() -> None:
    assert READ(prompt(5, 19, 20, 2**32 - 1)).tolist() == [5, 19, 20, 20]
    assert READ(prompt()).tolist() == [20]
    assert READ(prompt(3, 4, 8, 9)).tolist() == [20]


def test_of_a_long_prompt_the_start_and_the_end_are_read() -> None:
    assert excerpt(np.arange(100, dtype=np.uint32), 8).tolist() == [0, 1, 2, 3, 4, 5, 98, 99]
    assert excerpt(np.arange(8, dtype=np.uint32), 8).tolist() == list(range(8))
    counted = features([prompt(*range(MOST_COUNTED_IDS + 500))], 1)
    assert counted[0] == pytest.approx(np.log([1 + MOST_COUNTED_IDS, MOST_COUNTED_IDS + 500]))


def test_batches_hold_every_prompt_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200).tolist()
    found = list(batches(lengths, 256))
    assert sorted(index for batch in found for index in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 256 for batch in found)
    assert len(found) < 1.3 * sum(lengths) / 256 + 2
    assert list(batches([500, 3], 256)) == [[1], [0]], "a longer one goes alone"


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([7, 8], dtype=np.int32), np.array([9], dtype=np.int32)]
    assert padded(rows).tolist() == [[7, 8], [9, PADDING]]


def test_a_prompt_means_the_same_alone_and_among_others(folder: Path) -> None:
    predict = load(folder).prompt
    prompts = [prompt(*np.random.default_rng(i).integers(3, 20, 1 + i % 8).tolist()) for i in range(300)]
    together = predict(prompts)
    assert together.shape == (300, 10)
    assert together == pytest.approx(np.concatenate([predict([one]) for one in prompts]), abs=1e-6)
    assert np.abs(np.diff(together[:20], axis=0)).max(axis=1).min() > 1e-4, "and others mean something else"


def test_a_prompt_costs_no_more_however_long_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = load(folder)
    shapes: list[tuple[int, ...]] = []
    run = type(artefact.classifier._graph).run

    def watched(graph: Any, **inputs: Any) -> Any:
        shapes.append(inputs["ids"].shape)
        return run(graph, **inputs)

    monkeypatch.setattr(type(artefact.classifier._graph), "run", watched)
    p = artefact.prompt([prompt(*([5] * 100_000))])
    assert p.sum() == pytest.approx(1)
    assert shapes == [(1, 8 if artefact.manifest.prompt_stage.kind == "tokens" else 10)]


def test_words_reach_the_text_encoder_as_its_own_pieces(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    artefact = load(artefacts.make(tmp_path, prompt_kind="text"))
    encode: Callable[[Prompt], Any] = artefact.prompt._encode  # type: ignore[attr-defined]
    assert encode(prompt(3, 4, 5, 6, 7, 8, 9)).tolist() == [1, 17, 16, 15, 2]
    assert len(encode(prompt(*([5] * 500)))) == 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "magic"}, "prompt"),
        ({"most_ids": 3}, "prompt.*most_ids"),
        ({"most_ids": 10**6}, "prompt.*most_ids"),
        ({"prefix": [-1]}, "prompt.*prefix"),
        ({"surprise": 1}, "prompt.*surprise"),
        ({"canary": {"token_ids": [5], "probabilities": [0.1] * 10}}, "prompt.canary: probabilities are off"),
        ({"canary": {"token_ids": [5], "probabilities": [1.0]}}, "prompt.canary.probabilities: 1 entries"),
        ({"canary": {"token_ids": [], "probabilities": [1.0]}}, "token_ids"),
    ],
)
def test_a_bad_section_is_refused_naming_the_field(folder: Path, changes: dict[str, Any], named: str) -> None:
    edit_prompt(folder, **changes)
    with pytest.raises(ArtefactError, match=named):
        load(folder)


def test_a_vocabulary_beyond_the_graphs_table_is_refused(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path, prompt_kind="tokens")
    edit_prompt(folder, vocabulary=21)
    with pytest.raises(ArtefactError, match="prompt.onnx: cannot read a prompt of unknown ids"):
        load(folder)


def test_a_graph_of_another_kind_is_refused(folder: Path) -> None:
    artefacts.edit(folder, prompt={"kind": "counts", "buckets": 8})
    with pytest.raises(ArtefactError, match=r"prompt\.onnx: inputs"):
        load(folder)


@pytest.mark.parametrize("changes", [{"prompt": None}, {"prompt_buckets": 8}])
def test_the_prompt_stage_is_said_once(folder: Path, changes: dict[str, Any]) -> None:
    artefacts.edit(folder, **changes)
    with pytest.raises(ArtefactError, match="prompt: either"):
        load(folder)


def test_counts_may_have_a_section_and_a_canary_too(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path)
    (expected,) = load(folder).prompt([prompt(5, 6)])
    section = {"kind": "counts", "buckets": 8, "canary": {"token_ids": [5, 6], "probabilities": expected.tolist()}}
    artefacts.edit(folder, prompt=section, prompt_buckets=None)
    assert load(folder).manifest.prompt_stage.kind == "counts"
    artefacts.edit(folder, prompt=section | {"canary": {"token_ids": [5], "probabilities": expected.tolist()}})
    with pytest.raises(ArtefactError, match="prompt.canary"):
        load(folder)


@pytest.mark.parametrize("file", ["llm_tokenizer.json", "prompt_tokenizer.json"])
class TestTokenizers:
    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        pytest.importorskip("tokenizers")
        return artefacts.make(tmp_path, prompt_kind="text")

    def test_a_changed_one_is_refused_by_its_hash(self, text: Path, file: str) -> None:
        with (text / file).open("ab") as content:
            content.write(b" ")
        with pytest.raises(ArtefactError, match=f"{file}: sha256"):
            load(text)

    def test_a_missing_one_is_refused_by_name(self, text: Path, file: str) -> None:
        (text / file).unlink()
        with pytest.raises(ArtefactError, match=file):
            load(text)

    def test_one_without_a_hash_is_refused_by_name(self, text: Path, file: str) -> None:
        files = json.loads((text / "manifest.json").read_text())["files"]
        artefacts.edit(text, files={name: digest for name, digest in files.items() if name != file})
        with pytest.raises(ArtefactError, match="files: the prompt kind text needs"):
            load(text)

    def test_one_that_is_no_tokenizer_is_refused_by_name(self, text: Path, file: str) -> None:
        (text / file).write_text("{}")
        files = json.loads((text / "manifest.json").read_text())["files"]
        artefacts.edit(text, files=files | {file: artefacts.sha256(b"{}")})
        with pytest.raises(ArtefactError, match=f"{file}: not a tokenizer"):
            load(text)


def test_sequence_kinds_serve_whole_artefacts(folder: Path) -> None:
    artefact: Artefact = load(folder)
    p = artefact.prompt([prompt(5, 6, 7), prompt(7, 6, 5, 5)])
    assert p.sum(axis=1) == pytest.approx([1, 1])
    assert artefact.bins.mean(p).min() > 0
