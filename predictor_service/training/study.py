"""Which layers, bins, losses and sizes predict best, judged on validation prompts: what wins is kept.

Every candidate is fitted anew on the same training rows and judged by the classifier alone, before refinement: the
mean ranked probability score in tokens (``tune.ranked_score``), each request with the same weight.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from scipy.stats import kendalltau

from predictor_service.bins import Bins
from predictor_service.evaluation.metrics import snapshots
from predictor_service.training.fit import Fitted, Table, fit
from predictor_service.training.labels import Floats, Ints, equal_edges, log_edges, representatives
from predictor_service.training.networks import Array, Recipe
from predictor_service.training.tune import Scale, ranked_score

FIRST_BIN_TOKENS = 4
STUDY_EPOCHS = 8
LAYERS = "layers"
WORTH_A_LAYER = 0.01
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """One classifier: which layers it reads, over which bins, trained how."""

    layers: tuple[int, ...]
    edges: Ints
    recipe: Recipe

    @property
    def row(self) -> dict[str, object]:
        return {"layers": list(self.layers), "bins": len(self.edges), "recipe": asdict(self.recipe)}


@dataclass(frozen=True)
class Judged:
    """How one candidate did on validation: means over requests, and their standard errors, tokens."""

    study: str
    name: str
    choice: Choice
    ranked_score: float
    ranked_score_se: float
    mae_median: float
    mae_median_se: float
    mae_mean: float
    kendall_tau: float
    seconds: float

    @property
    def row(self) -> dict[str, object]:
        plain = {name: value for name, value in asdict(self).items() if name != "choice"}
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in plain.items()}
        return {**rounded, **self.choice.row}


@dataclass(frozen=True)
class Splits:
    """What is learnt from and what is judged on, and the cap of every response."""

    training: Table
    validation: Table
    max_tokens: int

    def scale(self, edges: Ints) -> Scale:
        remaining = self.training.remaining[self.training.finished]
        return Scale(Bins(edges.astype(np.float64), representatives(remaining, edges)), self.max_tokens)


def judge(study: str, name: str, choice: Choice, splits: Splits, probabilities: Array, seconds: float) -> Judged:
    """Scores classifier outputs [rows, bins] on the validation rows."""
    table, scale = splits.validation, splits.scale(choice.edges)
    q, age, truth = probabilities.astype(np.float64), table.age, table.remaining.astype(np.float64)
    request = np.cumsum(np.diff(table.response, prepend=-1) != 0) - 1
    count = np.bincount(request)

    def over_requests(values: Floats) -> tuple[float, float]:
        each = np.bincount(request, values) / count
        return float(each.mean()), float(each.std() / np.sqrt(len(each)))

    median = scale.quantile(q, 0.5, age)
    score, mae = over_requests(ranked_score(q, truth, age, scale)), over_requests(np.abs(median - truth))
    mean, _ = over_requests(np.abs(scale.mean(q, age) - truth))
    return Judged(study, name, choice, *score, *mae, mean, snapshot_tau(median, truth, request), seconds)


class Study:
    """Tries candidates one question at a time; the best answer so far stays for the next question."""

    def __init__(self, splits: Splits, start: Choice, progress: Progress) -> None:
        self.best = start
        self.judged: list[Judged] = []
        self._splits = splits
        self._progress = progress

    def ask(self, study: str, candidates: Mapping[str, Choice], tolerance: float = 0.0) -> Choice:
        """Fits and judges every candidate; the first within ``tolerance`` of the least ranked score is the new best."""
        results = self.compare(study, candidates)
        limit = min(one.ranked_score for one in results) * (1 + tolerance)
        self.best = next(one for one in results if one.ranked_score <= limit).choice
        return self.best

    def compare(self, study: str, candidates: Mapping[str, Choice]) -> list[Judged]:
        """Fits and judges every candidate, for the report only."""
        return [self._try(study, name, choice) for name, choice in candidates.items()]

    def _try(self, study: str, name: str, choice: Choice) -> Judged:
        start = time.perf_counter()
        probabilities = self.fit(choice).probabilities(self._splits.validation, self._splits.max_tokens)
        judged = judge(study, name, choice, self._splits, probabilities, time.perf_counter() - start)
        self.judged.append(judged)
        self._progress(f"{study}: {name}: ranked score {judged.ranked_score:.2f}, MAE {judged.mae_median:.1f} tokens")
        return judged

    def fit(self, choice: Choice) -> Fitted:
        quick = replace(choice.recipe, epochs=min(choice.recipe.epochs, STUDY_EPOCHS))
        splits = self._splits
        return fit(splits.training, splits.validation, choice.edges, quick, choice.layers, splits.max_tokens)


def profile_layers(splits: Splits, edges: Ints, recipe: Recipe, progress: Progress) -> list[Judged]:
    """One classifier a layer, each reading that layer alone: the paper's Figure 2."""
    study = Study(splits, Choice((splits.training.layers[0],), edges, recipe), progress)
    title = "profile" if recipe.age else "profile, paper"
    study.ask(title, {str(layer): Choice((layer,), edges, recipe) for layer in splits.training.layers})
    return study.judged


def search(splits: Splits, by_rank: Sequence[int], bins: int, progress: Progress) -> tuple[Choice, list[Judged]]:
    """The choice that won on validation, and everything that was tried.

    ``by_rank``: layers, the best alone first. Questions are asked in the order of what they change most.
    """
    edges = log_edges(bins, FIRST_BIN_TOKENS, splits.max_tokens)
    study = Study(splits, Choice(tuple(sorted(by_rank[:4])), edges, Recipe()), progress)
    for title, candidates in _questions(study, by_rank):
        # Every layer more is shipped at each step of each request, so it has to be worth it.
        study.ask(title, candidates, WORTH_A_LAYER if title == LAYERS else 0.0)
    # The prompt stage shares the bins, so they are the user's to choose; this is what the choice costs.
    study.compare("bins", {name: replace(study.best, edges=edges) for name, edges in _spacings(splits.max_tokens)})
    return study.best, study.judged


def _questions(study: Study, by_rank: Sequence[int]) -> Iterator[tuple[str, dict[str, Choice]]]:
    sizes = sorted({1, 2, 3, 4, 6, len(by_rank)} & set(range(1, len(by_rank) + 1)))
    yield LAYERS, {str(n): replace(study.best, layers=tuple(sorted(by_rank[:n]))) for n in sizes}
    for title, candidates in _recipe_questions(study):
        yield title, {name: replace(study.best, recipe=recipe) for name, recipe in candidates().items()}


def _spacings(cap: int) -> Iterator[tuple[str, Ints]]:
    yield from ((f"{n} equal", equal_edges(n, cap)) for n in (10, 24))
    yield from ((f"{n} log", log_edges(n, FIRST_BIN_TOKENS, cap)) for n in (10, 16, 24, 32) if n <= most_bins(cap))


def _recipe_questions(study: Study) -> Iterator[tuple[str, Callable[[], dict[str, Recipe]]]]:
    def vary(field: str, *values: object) -> Callable[[], dict[str, Recipe]]:
        return lambda: {str(value): replace(study.best.recipe, **{field: value}) for value in values}  # type: ignore[arg-type]

    yield "weight of the ranked score", vary("ranked", 0.0, 3.0, 10.0, 30.0)
    yield "age is seen", vary("age", True, False)
    yield "censoring is seen", vary("censoring", True, False)
    yield "widths", vary("widths", (256, 128), (512, 256), (1024, 512), (512,))
    yield "dropout", vary("dropout", 0.1, 0.3, 0.5)
    yield "learning rate", vary("learning_rate", 2e-4, 5e-4, 1.5e-3)
    yield "weight decay", vary("weight_decay", 0.01, 0.05, 0.3)


def spaced(ranked: Sequence[int], apart: int = 2) -> list[int]:
    """The layers in their order, without those closer than ``apart`` to a better one: neighbours say the same."""
    kept: list[int] = []
    for layer in ranked:
        if all(abs(layer - other) >= apart for other in kept):
            kept.append(layer)
    return kept


def most_bins(cap: int) -> int:
    """How many log-spaced bins fit below ``cap`` before two edges round to the same token."""
    fitting = 2
    while True:
        try:
            log_edges(fitting + 1, FIRST_BIN_TOKENS, cap)
        except ValueError:
            return fitting
        fitting += 1


def learning_curve(splits: Splits, choice: Choice, seed: int, progress: Progress) -> list[tuple[int, Judged]]:
    """The choice trained on 1/16 to all of the training responses: (responses, how it did)."""
    responses = np.random.default_rng(seed).permutation(np.unique(splits.training.response))
    out = []
    for part in (16, 8, 4, 2, 1):
        some = responses[: max(1, len(responses) // part)]
        fewer = replace(splits, training=splits.training.take(np.flatnonzero(np.isin(splits.training.response, some))))
        study = Study(fewer, choice, progress)
        study.ask("training responses", {str(len(some)): choice})
        out.append((len(some), study.judged[0]))
    return out


def on_the_wire(splits: Splits, fitted: Fitted, choice: Choice) -> list[Judged]:
    """The same classifier on rows as float16 and rounded to 8 bits (scaled to each layer's largest value)."""
    table = splits.validation
    largest = table.hidden.abs().amax(dim=2, keepdim=True).float().clamp(min=1e-6)
    rounded = (torch.round(table.hidden.float() / largest * 127) * (largest / 127)).half()
    rows = {"float16": table, "int8": replace(table, hidden=rounded)}
    return [
        judge("wire", name, choice, splits, fitted.probabilities(read, splits.max_tokens), 0.0)
        for name, read in rows.items()
    ]


def snapshot_tau(predicted: Floats, truth: Floats, request: Ints, count: int = 8) -> float:
    """Kendall's tau-b over requests, one random row of each, averaged over ``count`` such snapshots."""
    looks = snapshots(request, count, seed=0)
    return float(np.mean([kendalltau(predicted[look], truth[look]).statistic for look in looks]))
