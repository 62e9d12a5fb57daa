"""The user's prompts: read from files, turned into the LLM's tokens, and split by what they say."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from predictor_service.training.generation import require_model_folder
from predictor_service.training.labels import Ints

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
FIELDS = ("prompt", "instruction", "question", "turns")
# File names that say nothing about what is in them: their folder names the data set.
_GENERIC_STEM = re.compile(r"(train|validation|valid|val|dev|test|data|prompts?|questions?)([_-]?\d+)?", re.IGNORECASE)


class PromptError(ValueError):
    """A prompt that cannot be used; the text names file, line and field."""


@dataclass(frozen=True)
class Prompt:
    text: str
    source: str  # name of the data set
    token_ids: tuple[int, ...]  # as the LLM is given it, ready for the answer


@dataclass(frozen=True)
class Prompts:
    """What was read from prompt files, in their order."""

    prompts: tuple[Prompt, ...]
    skipped: tuple[str, ...]  # why, one for each prompt that was left out


@dataclass(frozen=True)
class Shares:
    """Which prompts are held out: shares of those whose source may be held out at all."""

    validation: float = 0.08
    test: float = 0.12
    sources: frozenset[str] | None = None  # None: any
    seed: int = 0


@dataclass(frozen=True)
class PromptTable:
    """The prompts of a collection; `Responses.prompt` counts them."""

    text: tuple[str, ...]
    source: tuple[str, ...]
    split: Ints  # [prompts] TRAIN, VALIDATION or TEST

    @classmethod
    def of(cls, prompts: Sequence[Prompt], split: Ints) -> "PromptTable":
        return cls(tuple(prompt.text for prompt in prompts), tuple(prompt.source for prompt in prompts), split)

    @classmethod
    def load(cls, path: Path) -> "PromptTable":
        """Reads what `lines` wrote. Raises OSError, and KeyError or ValueError for anything else."""
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        split = np.array([SPLITS.index(row["split"]) for row in rows], dtype=np.int64)
        return cls(tuple(row["prompt"] for row in rows), tuple(row["source"] for row in rows), split)

    def lines(self) -> str:
        """One JSON object a line: prompt, source, split."""
        rows = zip(self.text, self.source, self.split.tolist(), strict=True)
        return "".join(
            json.dumps({"prompt": text, "source": source, "split": SPLITS[split]}, ensure_ascii=False) + "\n"
            for text, source, split in rows
        )


def read_prompts(
    paths: Sequence[Path], *, llm: Path, max_prompt_tokens: int, template: str | None = None, skip_bad: bool = False
) -> Prompts:
    """Reads JSON lists and JSONL files of objects with one of `FIELDS` (`instruction` may have an `input`).

    Each prompt is one user turn in the LLM's chat template, or takes the place of ``{prompt}`` in ``template``. Its
    source is the row's `source`, else the file's stem, or the folder's name where the stem says nothing.
    Raises PromptError for a broken line, an empty prompt or one of more than ``max_prompt_tokens`` tokens, unless
    ``skip_bad``; a broken JSON list always, for what follows the break cannot be found.
    """
    skipped: list[str] = []
    rows: list[_Row] = []

    def refuse(error: PromptError) -> None:
        if not skip_bad:
            raise error
        skipped.append(str(error))

    for path in paths:
        for row in _rows(path):
            if isinstance(row, PromptError):
                refuse(row)
            else:
                rows.append(row)
    prompts: list[Prompt] = []
    for row, ids in zip(rows, prompt_token_ids(llm, [row.text for row in rows], template), strict=True):
        if len(ids) > max_prompt_tokens:
            refuse(PromptError(f"{row.where}: {len(ids)} tokens (limit max_prompt_tokens {max_prompt_tokens})"))
        else:
            prompts.append(Prompt(row.text, row.source, tuple(ids)))
    if not prompts:
        raise PromptError(f"{', '.join(map(str, paths))}: no prompt is left")
    return Prompts(tuple(prompts), tuple(skipped))


def prompt_token_ids(llm: Path, texts: Sequence[str], template: str | None = None) -> list[list[int]]:
    """Token ids of each text as the LLM is given it: one user turn of its chat template, or ``template`` filled in.

    Raises ValueError where ``template`` lacks ``{prompt}`` or, without one, the LLM has no chat template.
    """
    from transformers import AutoTokenizer

    if not texts:
        return []
    require_model_folder(llm)
    tokenizer = AutoTokenizer.from_pretrained(str(llm))
    if template is not None:
        if "{prompt}" not in template:
            raise ValueError("template: has no {prompt} to put the prompt in")
        whole = [template.replace("{prompt}", text) for text in texts]
    elif tokenizer.chat_template is None:
        raise ValueError(f"{llm}: its tokenizer has no chat template; give a template with {{prompt}} in it")
    else:
        turns = [[{"role": "user", "content": text}] for text in texts]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[list[int]] = tokenizer(whole, add_special_tokens=template is not None)["input_ids"]
    return ids


def split_prompts(prompts: Sequence[Prompt], shares: Shares) -> Ints:
    """TRAIN, VALIDATION or TEST for each prompt [prompts], by a hash of its text and the seed.

    So a prompt stays where it is when files are added, and prompts that differ in case or white space only fall
    together: they are held out if one of them may be. Raises ValueError for shares or sources that cannot be, or
    where a split comes out empty.
    """
    if min(shares.validation, shares.test) < 0 or shares.validation + shares.test >= 1:
        raise ValueError(f"shares: validation {shares.validation} and test {shares.test} leave none to train on")
    known = {prompt.source for prompt in prompts}
    allowed = known if shares.sources is None else shares.sources
    if not allowed <= known:
        raise ValueError(f"held-out sources: {sorted(allowed - known)} are not among {sorted(known)}")
    keys = [prompt_key(prompt.text) for prompt in prompts]
    may_be_held_out = {key for key, prompt in zip(keys, prompts, strict=True) if prompt.source in allowed}
    split = np.array([split_of(key, shares) if key in may_be_held_out else TRAIN for key in keys], dtype=np.int64)
    wanted = {TRAIN: 1.0, VALIDATION: shares.validation, TEST: shares.test}
    for part, share in wanted.items():
        if share > 0 and not np.any(split == part):
            raise ValueError(f"{SPLITS[part]}: none of {len(prompts)} prompts fell to it")
    return split


def prompt_key(text: str) -> str:
    """What `split_of` hashes of a prompt: its words, whatever their case and the white space between."""
    return " ".join(text.split()).casefold()


def split_of(key: str, shares: Shares) -> int:
    """TRAIN, VALIDATION or TEST by a hash of ``key`` and the seed, whatever other prompts there are."""
    digest = hashlib.sha256(f"{shares.seed}\n{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.test:
        return TEST
    return VALIDATION if place < shares.test + shares.validation else TRAIN


@dataclass(frozen=True)
class _Row:
    where: str  # file, line and field
    source: str
    text: str


def _rows(path: Path) -> Iterator[_Row | PromptError]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 at byte {error.start}") from None
    values = _list_values(path, text) if text.lstrip().startswith("[") else _line_values(path, text)
    for line, value in values:
        yield value if isinstance(value, PromptError) else _row(path, line, value)


def _line_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON strings may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, PromptError(f"{path}, line {number}: not JSON: {error.msg}")


def _list_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of one JSON list, each with the line on which it begins."""
    decoder, white = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    end, line = text.index("["), 1 + text.count("\n", 0, text.index("["))

    def skip_to(position: int) -> int:
        return white.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing too

    begin = skip_to(end + 1)
    while text[begin : begin + 1] != "]":
        line += text.count("\n", end, begin)
        try:
            value, after = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            raise PromptError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
        yield line, value
        line, end = line + text.count("\n", begin, after), after
        begin = skip_to(after)
        if text[begin : begin + 1] == ",":
            begin = skip_to(begin + 1)
        elif text[begin : begin + 1] != "]":
            at = line + text.count("\n", after, begin)
            raise PromptError(f"{path}, line {at}: not JSON: neither a comma nor the end of the list")


def _row(path: Path, line: int, value: Any) -> _Row | PromptError:
    where = f"{path}, line {line}"
    if not isinstance(value, dict):
        return PromptError(f"{where}: not an object")
    field = next((field for field in FIELDS if field in value), None)
    if field is None:
        return PromptError(f"{where}: has none of the fields {', '.join(FIELDS)}")
    where = f"{where}, field {field}"
    asked = value[field][0] if field == "turns" and isinstance(value[field], list) and value[field] else value[field]
    parts = [asked, (value.get("input") or "") if field == "instruction" else ""]
    if not all(isinstance(part, str) for part in parts):
        return PromptError(f"{where}: not text")
    if not asked.strip():
        return PromptError(f"{where}: empty")
    return _Row(where, _source(path, value), "\n\n".join(part for part in parts if part))


def _source(path: Path, value: dict[str, Any]) -> str:
    named = value.get("source")
    if isinstance(named, str) and named:
        return named
    return path.resolve().parent.name if _GENERIC_STEM.fullmatch(path.stem) else path.stem
