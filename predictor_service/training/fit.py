"""Fits the classifier of hidden states, and keeps what later stages need once the states are gone."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from predictor_service.training.labels import Floats, Ints, label
from predictor_service.training.networks import Array, Dense, Network, Recipe, Rows, possible_bins, predict, train
from predictor_service.training.states import States


@dataclass(frozen=True)
class Stream:
    """Classifier outputs over whole responses, one row per (response, age), ages of a response in order."""

    probabilities: Array  # [rows, bins]
    age: Ints
    response: Ints  # [rows] index into Responses

    @classmethod
    def of(cls, states: States, probabilities: Array) -> "Stream":
        return cls(probabilities, states.age, states.response)


@dataclass(frozen=True)
class Classifier:
    """The trained network and what it says of the rows it learnt from and of those held out."""

    dense: Dense
    prior: Floats  # [bins] how often each bin is the truth among training rows
    age: Ints  # [training rows]
    response: Ints  # [training rows]
    validation: Stream
    test: Stream
    losses: list[float]  # validation loss after each epoch, nats

    def save(self, path: Path) -> None:
        flat: dict[str, NDArray[np.generic]] = {
            "prior": self.prior,
            "age": self.age,
            "response": self.response,
            "losses": np.array(self.losses),
            "dense.mean": self.dense.mean,
            "dense.scale": self.dense.scale,
        }
        for i, (weight, bias) in enumerate(self.dense.layers):
            flat |= {f"dense.weight{i}": weight, f"dense.bias{i}": bias}
        for name, stream in (("validation", self.validation), ("test", self.test)):
            flat |= {f"{name}.{field.name}": getattr(stream, field.name) for field in fields(Stream)}
            flat[f"{name}.probabilities"] = stream.probabilities.astype(np.float16)
        np.savez_compressed(path, **flat)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        with np.load(path) as stored:
            flat = {name: stored[name] for name in stored.files}
        layers = [(flat[f"dense.weight{i}"], flat[f"dense.bias{i}"]) for i in range(sum("weight" in n for n in flat))]
        streams = {
            name: Stream(
                flat[f"{name}.probabilities"].astype(np.float32), flat[f"{name}.age"], flat[f"{name}.response"]
            )
            for name in ("validation", "test")
        }
        return cls(
            Dense(flat["dense.mean"], flat["dense.scale"], tuple(layers)),
            flat["prior"],
            flat["age"],
            flat["response"],
            streams["validation"],
            streams["test"],
            flat["losses"].tolist(),
        )


def fit_classifier(train_on: States, validation: States, test: States, edges: Ints, recipe: Recipe) -> Classifier:
    """Trains on ``train_on``, stops early on ``validation``, and runs over both held-out splits."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    rows = _rows(train_on, edges, device)
    sample = rows.batch(torch.arange(0, len(train_on.age), max(1, len(train_on.age) // 50_000), device=device))
    network = Network(sample.mean(0), 1 / sample.std(0).clamp(min=1e-3), len(edges), recipe).to(device)
    held_out = _rows(validation, edges, device)
    losses = train(network, rows, held_out, recipe)
    # A cut response says only that the truth lies above: its row counts for the bins above as the network splits them.
    truth = predict(network, rows) * rows.possible.cpu().numpy()
    prior = (truth / truth.sum(axis=1, keepdims=True)).mean(axis=0, dtype=np.float64)
    return Classifier(
        network.dense(),
        prior,
        train_on.age,
        train_on.response,
        Stream.of(validation, predict(network, held_out)),
        Stream.of(test, predict(network, _rows(test, edges, device))),
        losses,
    )


def _rows(states: States, edges: Ints, device: torch.device) -> Rows:
    hidden = torch.from_numpy(states.hidden).to(device)
    log_age = torch.from_numpy(np.log1p(states.age)).float().to(device)
    bins = torch.from_numpy(label(states.remaining, edges)).to(device)
    possible = possible_bins(bins, torch.from_numpy(states.finished).to(device), len(edges))
    return Rows(lambda at: torch.cat([hidden[at].float(), log_age[at, None]], dim=1), possible)
