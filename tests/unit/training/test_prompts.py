import json
from pathlib import Path

import numpy as np
import pytest

from predictor_service.training.prompts import (
    TEST,
    TRAIN,
    VALIDATION,
    Prompt,
    PromptError,
    PromptTable,
    Shares,
    read_prompts,
    split_prompts,
)
from tests.unit.training.tiny_llm import make_tiny_llm

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _read(llm: Path, *paths: Path, most: int = 100, skip_bad: bool = False) -> list[tuple[str, str]]:
    read = read_prompts(paths, llm=llm, max_prompt_tokens=most, skip_bad=skip_bad)
    return [(prompt.text, prompt.source) for prompt in read.prompts]


def _prompts(count: int, source: str = "a", begin: int = 0) -> list[Prompt]:
    return [Prompt(f"Prompt {i}", source, ()) for i in range(begin, begin + count)]


def test_lists_and_lines_with_any_of_the_fields_are_read_in_order(llm: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say hi.", "input": ""},
        {"instruction": "Sort:", "input": "b a"},
        {"instruction": "Go.", "input": None},
    ]
    listed = _file(tmp_path / "alpaca.json", json.dumps(rows, indent=1))
    lines = _file(tmp_path / "chat.jsonl", '{"prompt": "One"}\n\n{"question": "Two\u2028?"}\n{"turns": ["Three", "x"]}')
    assert _read(llm, listed, lines) == [
        ("Say hi.", "alpaca"),
        ("Sort:\n\nb a", "alpaca"),
        ("Go.", "alpaca"),
        ("One", "chat"),
        ("Two\u2028?", "chat"),
        ("Three", "chat"),
    ]


@pytest.mark.parametrize("stem", ["train", "dev_4000", "question", "Test-1", "prompts"])
def test_a_file_name_that_says_nothing_gives_way_to_its_folder(llm: Path, tmp_path: Path, stem: str) -> None:
    path = _file(tmp_path / "gsm8k" / f"{stem}.jsonl", '{"question": "q"}\n{"question": "r", "source": "own"}')
    assert _read(llm, path) == [("q", "gsm8k"), ("r", "own")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": "b"', r"line 2: not JSON"),
        ('{"prompt": "a"}\n["b"]', r"line 2: not an object"),
        ('{"prompt": "a"}\n\n{"answer": "b"}', r"line 3: has none of the fields prompt, instruction"),
        ('{"prompt": "a"}\n{"prompt": " \\n"}', r"line 2, field prompt: empty"),
        ('{"prompt": "a"}\n{"instruction": 7}', r"line 2, field instruction: not text"),
        ('{"prompt": "a"}\n{"turns": []}', r"line 2, field turns: not text"),
        ('{"prompt": "a"}\n{"question": "0123456789"}', r"line 2, field question: 12 tokens \(limit .* 11\)"),
        ('[{"prompt": "a"},\n\n {"prompt": ""}]', r"line 3, field prompt: empty"),
    ],
)
def test_a_bad_prompt_is_an_error_that_names_file_line_and_field_or_is_skipped(
    llm: Path, tmp_path: Path, text: str, said: str
) -> None:
    path = _file(tmp_path / "p.json", text)
    with pytest.raises(PromptError, match=rf"p\.json, {said}"):
        _read(llm, path, most=11)
    assert _read(llm, path, most=11, skip_bad=True) == [("a", "p")]
    assert len(read_prompts([path], llm=llm, max_prompt_tokens=11, skip_bad=True).skipped) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"prompt": "a"},\n{"prompt": }]', 2),
        ('[{"prompt": "a"}\n\n{"prompt": "b"}]', 3),
        ('[\n{"prompt": "a"},\n', 3),
    ],
)
def test_a_broken_list_is_refused_even_when_bad_prompts_are_skipped(
    llm: Path, tmp_path: Path, text: str, line: int
) -> None:
    with pytest.raises(PromptError, match=rf"p\.json, line {line}: not JSON"):
        _read(llm, _file(tmp_path / "p.json", text), skip_bad=True)


def test_a_file_that_is_not_utf8_or_has_no_prompt_is_named(llm: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(PromptError, match=r"p\.json: not UTF-8 at byte 12"):
        _read(llm, tmp_path / "p.json")
    with pytest.raises(PromptError, match=r"q\.json: no prompt is left"):
        _read(llm, _file(tmp_path / "q.json", "[]"))


def test_the_llm_is_given_its_chat_template_or_the_users_own(llm: Path, tmp_path: Path) -> None:
    path = _file(tmp_path / "p.jsonl", '{"prompt": "hi"}')
    letters = {letter: 3 + ord(letter) - 32 for letter in "<hi>:?"}
    (chat,) = read_prompts([path], llm=llm, max_prompt_tokens=9).prompts
    assert chat.token_ids == tuple(letters[letter] for letter in "<hi>")
    (bare,) = read_prompts([path], llm=llm, max_prompt_tokens=9, template="?{prompt}:").prompts
    assert bare.token_ids == (1, *(letters[letter] for letter in "?hi:"))
    with pytest.raises(ValueError, match=r"template: has no {prompt}"):
        read_prompts([path], llm=llm, max_prompt_tokens=9, template="?")


def test_a_base_model_needs_a_template(tmp_path: Path) -> None:
    base = make_tiny_llm(tmp_path / "base", chat_template=None)
    path = _file(tmp_path / "p.jsonl", '{"prompt": "hi"}')
    with pytest.raises(ValueError, match=r"base: its tokenizer has no chat template; give a template"):
        read_prompts([path], llm=base, max_prompt_tokens=9)
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_prompts([path], llm=tmp_path, max_prompt_tokens=9)


def test_shares_are_met_and_the_seed_decides_who_is_held_out() -> None:
    prompts, shares = _prompts(4000), Shares(validation=0.1, test=0.2, seed=3)
    split = split_prompts(prompts, shares)
    assert [np.mean(split == part) for part in (TRAIN, VALIDATION, TEST)] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert np.array_equal(split, split_prompts(prompts, shares))
    assert not np.array_equal(split, split_prompts(prompts, Shares(0.1, 0.2, seed=4)))


def test_a_prompt_stays_in_its_split_when_files_are_added_before_it() -> None:
    old, new = _prompts(500), _prompts(300, "b", begin=1000)
    assert split_prompts([*new, *old], Shares())[300:].tolist() == split_prompts(old, Shares()).tolist()


def test_prompts_that_say_the_same_fall_together_whatever_their_source() -> None:
    twins = [Prompt(f" prompt  {i}\n", "b", ()) for i in range(500)]
    split = split_prompts([*_prompts(500), *twins], Shares(0.1, 0.1, frozenset({"a"})))
    assert split[:500].tolist() == split[500:].tolist()


def test_only_chosen_sources_are_held_out() -> None:
    split = split_prompts([*_prompts(500), *_prompts(500, "b", begin=500)], Shares(sources=frozenset({"b"})))
    assert set(split[:500]) == {TRAIN}
    assert set(split[500:]) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (Shares(0.5, 0.5), "leave none to train on"),
        (Shares(-0.1, 0.5), "leave none to train on"),
        (Shares(sources=frozenset({"c"})), r"\['c'\] are not among \['a'\]"),
        (Shares(1e-9, 0.1), "validation: none of 40"),
    ],
)
def test_a_split_that_cannot_be_is_refused(shares: Shares, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split_prompts(_prompts(40), shares)


def test_the_table_of_prompts_survives_the_disk(tmp_path: Path) -> None:
    prompts = [Prompt("a\nb", "x", (1,)), Prompt("\u2028é", "y", (2, 3))]
    table = PromptTable.of(prompts, np.array([TRAIN, TEST]))
    again = PromptTable.load(_file(tmp_path / "prompts.jsonl", table.lines()))
    assert (again.text, again.source, again.split.tolist()) == (("a\nb", "\u2028é"), ("x", "y"), [TRAIN, TEST])


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not here")
def test_the_data_sets_are_read_whole_under_their_names(llm: Path) -> None:
    paths = [
        *(DATA / "gpteacher").glob("*.json"),
        *(DATA / folder / file for folder, file in (("alpaca5k", "dev_4000.json"), ("gsm8k", "train.jsonl"))),
        DATA / "mt_bench" / "question.jsonl",
    ]
    counts: dict[str, int] = {}
    for _, source in _read(llm, *paths, most=100_000):
        counts[source] = counts.get(source, 0) + 1
    assert counts == {
        "codegen-instruct": 4535,
        "roleplay-simple-deduped-roleplay-instruct": 1923,
        "toolformer-dedupe-only-dataset": 7673,
        "alpaca5k": 4000,
        "gsm8k": 7473,
        "mt_bench": 80,
    }
