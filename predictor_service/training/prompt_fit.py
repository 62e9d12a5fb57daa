"""Fits prompt predictors: total output length from the prompt alone, before the served LLM has seen it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from predictor_service.bins import Bins
from predictor_service.prompt import Prompt
from predictor_service.prompt_sequence import TextIds, TokenIds
from predictor_service.training.collect import TEST, TRAIN, VALIDATION, Responses
from predictor_service.training.labels import Ints, equal_edges, label, representatives
from predictor_service.training.networks import Array, Dense
from predictor_service.training.prompt_corpus import TAUGHT, Corpus
from predictor_service.training.prompt_network import fit_prompt, prompt_features
from predictor_service.training.prompt_recipes import COUNT_BUCKETS, COUNTS, KINDS, RECIPES, PromptRecipe
from predictor_service.training.prompt_train import Task, average, train

Progress = Callable[[str], None]
PROBES = 8
FOLDS = 5  # of the training prompts, for teachers


@dataclass(frozen=True)
class PromptFit:
    """One trained prompt predictor, what it says of held-out responses, and how good that is."""

    name: str
    networks: tuple[nn.Module, ...] | Dense  # several: their probabilities are averaged
    spread: Array | None  # [classes, bins] where the networks' classes are not the bins
    section: Mapping[str, Any]  # of the manifest, still without a canary
    encode: TokenIds | TextIds | None  # None: the networks read counts
    tokenizers: Mapping[str, bytes]
    probes: list[Prompt]  # what an exported graph is checked on
    validation: Array  # [validation responses, bins]
    test: Array  # [test responses, bins]
    metrics: Mapping[str, float]  # on validation: mae_tokens, kendall_tau; and seconds of training


def fit_prompts(
    responses: Responses,
    texts: Sequence[str],
    edges: Ints,
    llm: Path,
    minilm: Path | None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = print,
    recipes: Mapping[str, PromptRecipe] = RECIPES,
) -> dict[str, PromptFit]:
    """Trains every kind named, and teachers for those that have some.

    ``texts`` are the prompts that ``responses.prompt`` indexes; those that nobody answered teach distilled kinds.
    ``llm`` and ``minilm`` are Hugging Face folders of the served LLM and of a text encoder; None where no kind reads
    text. Raises ValueError for an unknown kind, or for one whose encoder is missing.
    """
    known = ("counts", *recipes)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise ValueError(f"kinds: {unknown[0]!r} is none of {', '.join(known)}")
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fits = _Fits(Corpus(responses, texts, llm, minilm, where), edges, recipes, seed, progress)
    return {kind: fits.of(kind) for kind in kinds}


class _Fits:
    """Fits, one after the other; what teachers say is found once."""

    def __init__(
        self, corpus: Corpus, edges: Ints, recipes: Mapping[str, PromptRecipe], seed: int, progress: Progress
    ) -> None:
        self._corpus, self._edges, self._recipes = corpus, edges, recipes
        self._seed, self._progress = seed, progress
        self._lessons: dict[str, Tensor] = {}

    def of(self, name: str) -> PromptFit:
        start = time.perf_counter()
        fitted = self._counts() if name == "counts" else self._encoder(name, self._recipes[name])
        seconds = round(time.perf_counter() - start, 1)
        found = replace(fitted, metrics={**fitted.metrics, "seconds": seconds})
        self._progress(f"prompt predictor {name}: {dict(found.metrics)}")
        return found

    def _counts(self) -> PromptFit:
        responses, rows = self._corpus.responses, self._corpus.rows
        dense, _ = fit_prompt(responses, self._edges, COUNT_BUCKETS, COUNTS)
        validation, test = (
            dense.probabilities(prompt_features(responses, rows[split], COUNT_BUCKETS)) for split in (VALIDATION, TEST)
        )
        section = {"kind": "counts", "buckets": COUNT_BUCKETS}
        metrics = self._metrics(validation)
        return PromptFit("counts", dense, None, section, None, {}, self._probes, validation, test, metrics)

    def _encoder(self, name: str, recipe: PromptRecipe) -> PromptFit:
        corpus, cap = self._corpus, self._corpus.max_tokens
        edges = equal_edges(recipe.equal_buckets, cap) if recipe.equal_buckets else self._edges
        teacher = self._taught(recipe.teachers) if recipe.teachers else None
        task = corpus.task(recipe.body, TAUGHT if recipe.teachers else TRAIN, edges, teacher)
        judge = corpus.judge(recipe.body, edges, task.rank)
        networks = [self._trained(name, recipe, task, judge, self._seed + member) for member in range(recipe.members)]
        into = spread(edges, self._edges, cap) if recipe.equal_buckets else None
        validation, test = (self._probabilities(networks, into, recipe.body, part) for part in (VALIDATION, TEST))
        return PromptFit(
            name,
            corpus.bodies.served(recipe.body, networks),
            into,
            corpus.bodies.section(recipe.body),
            corpus.bodies.reader(recipe.body),
            corpus.bodies.tokenizers(recipe.body),
            self._probes,
            validation,
            test,
            self._metrics(validation),
        )

    def _probabilities(self, networks: Sequence[nn.Module], into: Array | None, body: str, split: int) -> Array:
        """[responses of the split, bins]."""
        of_prompts: Array = average(networks, self._corpus.read(body, split)).cpu().numpy()
        found = of_prompts[self._corpus.prompts[split].of_response]
        return found if into is None else np.asarray(found @ into)

    def _taught(self, teachers: Sequence[str]) -> Tensor:
        """Mean probabilities of the teachers for the prompts that students learn from [prompts, bins]."""
        for name in teachers:
            if name not in self._lessons:
                self._lessons[name] = self._lesson(name, self._recipes[name])
        return torch.stack([self._lessons[name] for name in teachers]).mean(0)

    def _lesson(self, name: str, recipe: PromptRecipe) -> Tensor:
        """What teachers say of prompts that they have not learnt from [prompts, bins]: each learns all folds but one.

        Prompts that nobody answered are in no fold; all teachers are heard.
        """
        if recipe.equal_buckets:
            raise ValueError(f"kinds: {name!r} cannot teach: its classes are not the bins")
        task = self._corpus.task(recipe.body, TAUGHT, self._edges)
        judge = self._corpus.judge(recipe.body, self._edges, task.rank)
        answered = len(self._corpus.prompts[TRAIN].prompts)
        fold = np.random.default_rng(self._seed).permutation(answered) % FOLDS
        found = torch.zeros_like(task.lengths.ended)
        for each in range(FOLDS):
            learnt = task.take(np.flatnonzero(fold != each))
            network = self._trained(f"{name}, fold {each}", recipe, learnt, judge, self._seed + each)
            p = average([network], task.read)
            mine = torch.from_numpy(np.flatnonzero(fold == each)).to(p.device)
            found[mine] = p[mine]
            found[answered:] += p[answered:] / FOLDS
        return found

    def _trained(self, name: str, recipe: PromptRecipe, task: Task, judge: Task, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = self._corpus.bodies.network(recipe.body, len(task.rank), recipe.dropout).to(self._corpus.device)
        epochs = train(network, task, judge, recipe, seed)
        self._progress(f"prompt predictor {name}: loss, tau: {[(round(e.loss, 3), round(e.tau, 3)) for e in epochs]}")
        return network

    @property
    def _probes(self) -> list[Prompt]:
        return self._corpus.prompts[TRAIN].prompts[:PROBES]

    def _metrics(self, p: Array) -> dict[str, float]:
        """On validation; the length that is promised is the median, as in service."""
        responses, rows = self._corpus.responses, self._corpus.rows
        known = rows[TRAIN][responses.finished[rows[TRAIN]]]
        truth = responses.lengths[rows[VALIDATION]]
        bins = Bins(self._edges.astype(np.float64), representatives(responses.lengths[known], self._edges))
        median = np.minimum(bins.quantile(p.astype(np.float64), 0.5), responses.lengths.max())
        return {
            "mae_tokens": round(float(np.abs(median - truth).mean()), 1),
            "kendall_tau": round(float(kendalltau(median, truth).statistic), 4),
        }


def spread(classes: Ints, edges: Ints, cap: int) -> Array:
    """[classes, bins]: how a class's mass falls on the bins, evenly over its tokens up to the cap."""
    tokens = np.arange(cap + 1)
    shares = np.zeros((len(classes), len(edges)), dtype=np.float32)
    np.add.at(shares, (label(tokens, classes), label(tokens, edges)), 1.0)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
