"""Fits the classifier of hidden states, and keeps what later stages need once the states are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor_service.training.labels import Floats, Ints, label
from predictor_service.training.networks import Array, Dense, Network, Recipe, Rows, possible_bins, predict, train
from predictor_service.training.states import States

LEAST_FREQUENCY = 1e-6


@dataclass(frozen=True)
class Stream:
    """Classifier outputs over whole responses, one row per (response, age), ages of a response in order."""

    probabilities: Array  # [rows, bins]
    age: Ints
    response: Ints  # [rows] index into Responses


@dataclass(frozen=True)
class Table:
    """Hidden states of one split on the device that trains, so that many fits can read them."""

    hidden: Tensor  # float16 [rows, layers, hidden_size]
    layers: tuple[int, ...]
    age: Ints  # [rows]
    response: Ints  # [rows] index into Responses
    remaining: Ints  # [rows] tokens still to come; of a cut response, up to the cap
    finished: NDArray[np.bool_]  # [rows]

    @classmethod
    def of(cls, states: States, layers: Sequence[int]) -> "Table":
        hidden = torch.from_numpy(states.hidden).unflatten(1, (len(layers), -1)).to(device())
        return cls(hidden, tuple(layers), states.age, states.response, states.remaining, states.finished)

    def take(self, rows: Ints) -> "Table":
        """The same, of some rows only."""
        hidden = self.hidden[torch.from_numpy(rows).to(self.hidden.device)]
        return Table(
            hidden, self.layers, self.age[rows], self.response[rows], self.remaining[rows], self.finished[rows]
        )

    def rows(self, edges: Ints, recipe: Recipe, layers: Sequence[int], max_tokens: int) -> Rows:
        """What a network learns from: the layers' values, then log1p(age), which it may not see."""
        where = self.hidden.device
        columns = torch.tensor([self.layers.index(layer) for layer in layers], device=where)
        age, remaining = torch.from_numpy(self.age).to(where), torch.from_numpy(self.remaining).to(where)
        finished = torch.from_numpy(self.finished).to(where)
        log_age = torch.log1p(age.float())[:, None]
        bins = torch.from_numpy(label(self.remaining, edges)).to(where)
        left, upper = (max_tokens - age).float()[:, None], torch.from_numpy(edges[1:]).to(where).float()
        lower = torch.from_numpy(edges[:-1]).to(where).float()

        def batch(at: Tensor) -> Tensor:
            hidden = self.hidden[at] if len(layers) == len(self.layers) else self.hidden[at][:, columns]
            return torch.cat([hidden.flatten(1).float(), log_age[at]], dim=1)

        return Rows(
            batch,
            possible_bins(bins, finished | (not recipe.censoring), len(edges)),
            seen=(torch.minimum(left - lower, upper - lower)).clamp(min=0) / max_tokens,
            ended=remaining[:, None] < torch.minimum(upper, left),
        )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Fitted:
    """A trained network over some layers, and its validation loss after each epoch, nats."""

    network: Network
    edges: Ints
    layers: tuple[int, ...]
    recipe: Recipe
    losses: list[float]

    def probabilities(self, table: Table, max_tokens: int) -> Array:
        """[rows, bins] for the rows of ``table``."""
        return predict(self.network, table.rows(self.edges, self.recipe, self.layers, max_tokens))

    def stream(self, table: Table, max_tokens: int) -> Stream:
        return Stream(self.probabilities(table, max_tokens), table.age, table.response)


def fit(
    training: Table, validation: Table, edges: Ints, recipe: Recipe, layers: Sequence[int], max_tokens: int
) -> Fitted:
    """Trains on ``training`` and stops at the epoch that does best on ``validation``."""
    torch.manual_seed(recipe.seed)
    rows, held_out = (table.rows(edges, recipe, layers, max_tokens) for table in (training, validation))
    at = torch.arange(0, len(training.age), max(1, len(training.age) // 50_000), device=training.hidden.device)
    sample = rows.batch(at)
    scale = 1 / sample.std(0).clamp(min=1e-3)
    if not recipe.age:
        scale[-1] = 0.0
    network = Network(sample.mean(0), scale, len(edges), recipe).to(training.hidden.device)
    losses = train(network, rows, held_out, recipe)
    return Fitted(network, edges, tuple(layers), recipe, losses)


def bin_frequency(fitted: Fitted, table: Table, max_tokens: int) -> Floats:
    """How often each bin is the truth [bins]; a cut response counts for the bins above as the network splits them."""
    rows = table.rows(fitted.edges, fitted.recipe, fitted.layers, max_tokens)
    truth = predict(fitted.network, rows) * rows.possible.cpu().numpy()
    frequency = (truth / truth.sum(axis=1, keepdims=True)).mean(axis=0, dtype=np.float64)
    # A bin that no row fell into, as the open one where no response was cut, is rare, not impossible.
    seen = np.maximum(frequency, LEAST_FREQUENCY)
    shares: Floats = seen / seen.sum()
    return shares


@dataclass(frozen=True)
class Classifier:
    """The trained network and what it says of held-out responses: all that an artefact needs."""

    dense: Dense
    layers: Ints
    edges: Ints
    prior: Floats  # [bins] how often each bin is the truth among training rows
    age: Ints  # [training rows]
    response: Ints  # [training rows]
    validation: Stream
    test: Stream
    losses: list[float]  # validation loss after each epoch, nats

    @classmethod
    def of(cls, fitted: Fitted, training: Table, validation: Table, test: Table, max_tokens: int) -> "Classifier":
        return cls(
            fitted.network.dense(),
            np.array(fitted.layers),
            fitted.edges,
            bin_frequency(fitted, training, max_tokens),
            training.age,
            training.response,
            fitted.stream(validation, max_tokens),
            fitted.stream(test, max_tokens),
            fitted.losses,
        )

    def save(self, path: Path) -> None:
        flat: dict[str, NDArray[np.generic]] = {
            "layers": self.layers,
            "edges": self.edges,
            "prior": self.prior,
            "age": self.age,
            "response": self.response,
            "losses": np.array(self.losses),
            "dense.mean": self.dense.mean,
            "dense.scale": self.dense.scale,
        }
        for i, (weight, bias) in enumerate(self.dense.layers):
            flat |= {f"dense.weight{i}": weight.astype(np.float16), f"dense.bias{i}": bias}
        for name, stream in (("validation", self.validation), ("test", self.test)):
            flat |= {f"{name}.{field.name}": getattr(stream, field.name) for field in fields(Stream)}
            flat[f"{name}.probabilities"] = stream.probabilities.astype(np.float16)
        np.savez_compressed(path, **flat)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        with np.load(path, allow_pickle=False) as stored:
            flat = {name: stored[name] for name in stored.files}
        count = sum("weight" in name for name in flat)
        layers = [(flat[f"dense.weight{i}"].astype(np.float32), flat[f"dense.bias{i}"]) for i in range(count)]
        streams = {
            name: Stream(
                flat[f"{name}.probabilities"].astype(np.float32), flat[f"{name}.age"], flat[f"{name}.response"]
            )
            for name in ("validation", "test")
        }
        return cls(
            Dense(flat["dense.mean"], flat["dense.scale"], tuple(layers)),
            flat["layers"],
            flat["edges"],
            flat["prior"],
            flat["age"],
            flat["response"],
            streams["validation"],
            streams["test"],
            flat["losses"].tolist(),
        )
