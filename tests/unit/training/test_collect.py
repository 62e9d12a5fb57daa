import json
from pathlib import Path

import numpy as np
import pytest

from predictor_service.training.collect import TEST, TRAIN, VALIDATION, Responses, read_prompts, split_prompts


def _responses() -> Responses:
    rows = [[1, 2, 3, 10, 11], [4, 5, 12]]
    return Responses(
        prompt=np.array([0, 1]),
        split=np.array([TRAIN, TEST]),
        seed=np.array([0, 1000]),
        prompt_tokens=np.array([3, 2]),
        finished=np.array([True, False]),
        tokens=np.concatenate([np.array(row, dtype=np.int32) for row in rows]),
        offsets=np.array([0, 5, 8]),
    )


def test_lengths_count_generated_tokens_only() -> None:
    assert _responses().lengths.tolist() == [2, 1]
    assert _responses().sequence(1).tolist() == [4, 5, 12]


def test_responses_survive_the_disk(tmp_path: Path) -> None:
    _responses().save(tmp_path / "responses.npz")
    again = Responses.load(tmp_path / "responses.npz")
    for name, value in vars(_responses()).items():
        assert np.array_equal(value, getattr(again, name))


def test_every_prompt_is_in_one_split_and_the_seed_decides_which() -> None:
    split = split_prompts(100, validation=10, test=20, seed=3)
    assert [(split == part).sum() for part in (TRAIN, VALIDATION, TEST)] == [70, 10, 20]
    assert np.array_equal(split, split_prompts(100, 10, 20, seed=3))
    assert not np.array_equal(split, split_prompts(100, 10, 20, seed=4))


def test_too_few_prompts_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="prompts: 30 leave none"):
        split_prompts(30, validation=10, test=20, seed=0)


def test_an_empty_input_adds_nothing_to_the_instruction(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"instruction": "Say hi.", "input": ""}, {"instruction": "Sort:", "input": "b a"}]))
    assert read_prompts(path) == ["Say hi.", "Sort:\n\nb a"]
