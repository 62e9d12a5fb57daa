"""The middle of the training pipeline: from responses to fitted classifiers, with the study that chose them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from predictor_service.training.collect import PROMPTS_FILE, Responses
from predictor_service.training.fit import Classifier, Fitted, Table, fit
from predictor_service.training.labels import Ints, equal_edges, log_edges
from predictor_service.training.networks import PAPER, Recipe
from predictor_service.training.prompts import TEST, TRAIN, VALIDATION, PromptTable
from predictor_service.training.recordings import Recordings
from predictor_service.training.states import Layers, Reader
from predictor_service.training.stored import CLASSIFIER, PAPER_CLASSIFIER
from predictor_service.training.study import (
    FIRST_BIN_TOKENS,
    Choice,
    Judged,
    Progress,
    Splits,
    judge,
    learning_curve,
    on_the_wire,
    profile_layers,
    search,
    spaced,
)

PAPER_BINS = 10
# Epochs of a profile's fits, and what it reads: it only ranks layers.
PROFILE_EPOCHS, PROFILE_RESPONSES, PROFILE_AGES = 5, 4_000, 8
HELD_OUT_PROFILE_AGES = 16


@dataclass(frozen=True)
class Plan:
    """What to fit and how much to try. ``layers`` empty: those that win on validation."""

    layers: tuple[int, ...] = ()
    # How many layers, the best alone first, the search may combine.
    most_layers: int = 8
    bins: int = 24
    ages_per_response: int = 24
    study_responses: int = 8_000
    recipe: Recipe = Recipe()
    search: bool = True
    seed: int = 0


class Stage:
    """One run over the responses in a work folder; writes what it finds as it goes."""

    def __init__(self, llm: Path, work: Path, max_tokens: int, plan: Plan, progress: Progress) -> None:
        self._llm, self._work, self._cap, self._plan, self._progress = llm, work, max_tokens, plan, progress
        self._responses = Responses.load(work)
        self._source = np.array(PromptTable.load(work / PROMPTS_FILE).source)
        self._report: dict[str, Any] = {}

    def run(self) -> None:
        """Profiles the layers, searches, fits the chosen classifier and the paper's, and saves both."""
        ranked, paper_layer = self._profile()
        layers = self._plan.layers or tuple(ranked[: self._plan.most_layers])
        read = tuple(sorted({*layers, paper_layer}))
        tables = {split: self._table(split, read) for split in (TRAIN, VALIDATION, TEST)}
        splits = Splits(tables[TRAIN], tables[VALIDATION], self._cap)
        choice = self._choose(splits, layers)
        fitted = self._fit(splits, choice)
        self._save(CLASSIFIER, fitted, tables)
        paper = Choice((paper_layer,), equal_edges(PAPER_BINS, self._cap), replace(PAPER, epochs=choice.recipe.epochs))
        self._save(PAPER_CLASSIFIER, self._fit(splits, paper), tables)
        if self._plan.search:
            self._note("wire", [one.row for one in on_the_wire(splits, fitted, choice)])
            curve = learning_curve(splits, choice, self._plan.seed, self._progress)
            self._note("learning_curve", [{"responses": count, **judged.row} for count, judged in curve])
            self._note("sources", [one.row for one in self._without_other_sources(splits, choice)])
            self._note("prompt_aggregation", [one.row for one in self._prompt_aggregation(choice)])

    def _profile(self) -> tuple[list[int], int]:
        """All layers, the best alone first, and the best for the paper's recipe."""
        self._progress("reading every layer")
        some = self._some(np.flatnonzero(self._responses.split == TRAIN), PROFILE_RESPONSES)
        held_out = self._first_samples(VALIDATION)
        training, validation = (
            self._read(rows, "all", ages) for rows, ages in ((some, PROFILE_AGES), (held_out, HELD_OUT_PROFILE_AGES))
        )
        splits = Splits(training, validation, self._cap)
        quick = replace(self._plan.recipe, epochs=PROFILE_EPOCHS)
        ours = profile_layers(splits, log_edges(self._plan.bins, FIRST_BIN_TOKENS, self._cap), quick, self._progress)
        paper = profile_layers(
            splits, equal_edges(PAPER_BINS, self._cap), replace(PAPER, epochs=PROFILE_EPOCHS), self._progress
        )
        self._note("profile", [one.row for one in ours])
        self._note("profile_paper", [one.row for one in paper])
        ranked = spaced([one.choice.layers[0] for one in sorted(ours, key=lambda one: one.ranked_score)])
        return ranked, min(paper, key=lambda one: one.mae_mean).choice.layers[0]

    def _choose(self, splits: Splits, ranked: Sequence[int]) -> Choice:
        """``ranked``: layers that may be read together, the best alone first."""
        edges = log_edges(self._plan.bins, FIRST_BIN_TOKENS, self._cap)
        if not self._plan.search:
            return Choice(tuple(sorted(ranked)), edges, self._plan.recipe)
        some = self._some(np.unique(splits.training.response), self._plan.study_responses)
        small = replace(splits, training=splits.training.take(np.flatnonzero(np.isin(splits.training.response, some))))
        choice, judged = search(small, ranked, self._plan.bins, self._progress)
        self._note("search", [one.row for one in judged])
        return replace(choice, recipe=replace(choice.recipe, epochs=self._plan.recipe.epochs))

    def _fit(self, splits: Splits, choice: Choice) -> Fitted:
        self._progress(f"fitting layers {choice.layers}, {len(choice.edges)} bins")
        return fit(splits.training, splits.validation, choice.edges, choice.recipe, choice.layers, self._cap)

    def _save(self, file: str, fitted: Fitted, tables: dict[int, Table]) -> None:
        made = Classifier.of(fitted, tables[TRAIN], tables[VALIDATION], tables[TEST], self._cap)
        made.save(self._work / file)

    def _without_other_sources(self, splits: Splits, choice: Choice) -> list[Judged]:
        """The choice trained on the held-out prompts' own data sets only, and on everything."""
        held_out = self._responses.prompt[self._first_samples(VALIDATION)]
        at_home = np.isin(self._source, np.unique(self._source[held_out]))
        rows = np.flatnonzero(at_home[self._responses.prompt[splits.training.response]])
        quick = replace(choice, recipe=replace(choice.recipe, epochs=PROFILE_EPOCHS))
        out = []
        for name, table in (("held-out sources only", splits.training.take(rows)), ("all sources", splits.training)):
            fitted = self._fit(replace(splits, training=table), quick)
            probabilities = fitted.probabilities(splits.validation, self._cap)
            out.append(judge("sources", name, quick, splits, probabilities, 0.0))
        return out

    def _table(self, split: int, layers: tuple[int, ...]) -> Table:
        rows = np.flatnonzero(self._responses.split == split) if split == TRAIN else self._first_samples(split)
        return self._read(rows, layers, self._plan.ages_per_response if split == TRAIN else None)

    def _read(self, rows: Ints, layers: Layers, ages: int | None) -> Table:
        self._progress(f"hidden states of {len(rows)} responses")
        reader = Reader(self._llm, layers)
        return Table.of(reader.read(self._responses, rows, ages, self._plan.seed), reader.layers)

    def _prompt_aggregation(self, choice: Choice) -> list[Judged]:
        """r1 from the last prompt token, from the mean over the prompt's tokens, and from both."""
        rows = self._some(np.flatnonzero(self._responses.split == TRAIN), self._plan.study_responses)
        means = tuple(-layer for layer in choice.layers)
        reader = Reader(self._llm, choice.layers, prompt_mean=True)
        tables = []
        for some in (rows, self._first_samples(VALIDATION)):
            states = reader.read(self._responses, some, 1, self._plan.seed)
            hidden = np.concatenate([part for part in (states.hidden, states.prompt_mean) if part is not None], axis=1)
            tables.append(Table.of(replace(states, hidden=hidden), choice.layers + means))
        splits = Splits(tables[0], tables[1], self._cap)
        out = []
        for name, layers in (("last", choice.layers), ("mean", means), ("last and mean", choice.layers + means)):
            fitted = self._fit(splits, replace(choice, layers=layers))
            probabilities = fitted.probabilities(splits.validation, self._cap)
            out.append(judge("prompt aggregation", name, choice, splits, probabilities, 0.0))
        return out

    def _first_samples(self, split: int) -> Ints:
        """One response a prompt: the others are there to measure how much a prompt's lengths vary."""
        rows = np.flatnonzero(self._responses.split == split)
        return rows[np.unique(self._responses.prompt[rows], return_index=True)[1]]

    def _some(self, rows: Ints, most: int) -> Ints:
        return np.sort(np.random.default_rng(self._plan.seed).permutation(rows)[:most])

    def _note(self, name: str, rows: Any) -> None:
        self._report[name] = rows
        (self._work / "study.json").write_text(json.dumps(self._report, indent=1))


def fit_recordings(work: Path, recordings: Recordings, max_tokens: int, plan: Plan, progress: Progress) -> None:
    """Fits a classifier on what a running service received; the layers are those that it tapped.

    Prompts are held out as ever; a held-out request counts only if none of its rows is missing, for refinement walks
    through every token. Raises ValueError where a split is left without requests.
    """
    responses, states = recordings.responses, recordings.states
    rows_of = np.bincount(states.response, minlength=len(responses.lengths))
    whole = rows_of == responses.lengths
    split, row = responses.split, states.response
    everything = Table.of(states, recordings.layers)
    tables = {TRAIN: everything.take(np.flatnonzero(split[row] == TRAIN))}
    for held_out in (VALIDATION, TEST):
        tables[held_out] = everything.take(np.flatnonzero((split[row] == held_out) & whole[row]))
    for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        progress(f"{name}: {len(np.unique(tables[part].response))} requests, {len(tables[part].age)} rows")
        if not len(tables[part].age):
            raise ValueError(f"recordings: no usable request fell to {name}; record more")
    edges = log_edges(plan.bins, FIRST_BIN_TOKENS, max_tokens)
    fitted = fit(tables[TRAIN], tables[VALIDATION], edges, plan.recipe, recordings.layers, max_tokens)
    made = Classifier.of(fitted, tables[TRAIN], tables[VALIDATION], tables[TEST], max_tokens)
    made.save(work / CLASSIFIER)
