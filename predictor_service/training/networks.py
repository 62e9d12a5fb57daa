"""The networks and how they learn: small MLPs over bins, trained with censored lengths in mind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one fit."""

    widths: tuple[int, ...] = (512, 256)
    dropout: float = 0.3
    epochs: int = 12
    batch_rows: int = 1024
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    # Weight of the ranked probability score (in units of its range, the cap) beside the cross-entropy.
    ranked: float = 0.0
    # False: the network does not see the age, as the paper's does not.
    age: bool = True
    # False: a cut response counts as one that ended at the cap.
    censoring: bool = True
    seed: int = 0


# The paper's: one hidden layer of 512, cross-entropy, AdamW, cosine to zero; no age, nothing about censoring.
PAPER = Recipe(widths=(512,), dropout=0.0, weight_decay=0.01, learning_rate=1e-3, age=False, censoring=False)


@dataclass(frozen=True)
class Dense:
    """What is left of a trained network: standardise, clip, then ReLU layers, softmax over bins."""

    mean: Array  # [features]
    scale: Array  # [features] one over the standard deviation
    layers: tuple[tuple[Array, Array], ...]  # (weight [in, out], bias [out])

    def probabilities(self, features: Array) -> Array:
        """Reference implementation in numpy: [rows, features] -> [rows, bins]."""
        x = np.clip((features - self.mean) * self.scale, -10, 10)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight + bias
            x = np.maximum(x, 0) if i + 1 < len(self.layers) else x
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(x / x.sum(axis=1, keepdims=True), dtype=np.float32)


class Network(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    def __init__(self, mean: Tensor, scale: Tensor, bins: int, recipe: Recipe) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        sizes = [len(mean), *recipe.widths, bins]
        self.linear = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)])
        self.dropout = nn.Dropout(recipe.dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [rows, bins] of features [rows, features]."""
        x = ((features - self.mean) * self.scale).clamp(-10, 10)
        for linear in self.linear[:-1]:
            x = self.dropout(torch.relu(linear(x)))
        logits: Tensor = self.linear[-1](x)
        return logits

    def dense(self) -> Dense:
        layers = [(_numpy(layer.weight.T), _numpy(layer.bias)) for layer in self.linear]
        return Dense(_numpy(self.mean), _numpy(self.scale), tuple(layers))


def _numpy(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def possible_bins(bins: Tensor, finished: Tensor, count: int) -> Tensor:
    """Which bins the truth can lie in [rows, count]: its own, or, where the response was cut, any from there up."""
    every = torch.arange(count, device=bins.device)
    return torch.where(finished[:, None], every == bins[:, None], every >= bins[:, None])


def loss_of(logits: Tensor, possible: Tensor) -> Tensor:
    """Mean -log of the mass on the possible bins: cross-entropy, or survival where the response was cut."""
    inside = logits.masked_fill(~possible, float("-inf")).logsumexp(dim=1)
    return (logits.logsumexp(dim=1) - inside).mean()


@dataclass(frozen=True)
class Rows:
    """Training rows on one device; ``batch(indices)`` makes float features [n, features]."""

    batch: Callable[[Tensor], Tensor]
    possible: Tensor  # [rows, bins]
    # [rows, bins - 1] what each closed bin's end says: tokens that it weighs, and whether the response ended before.
    seen: Tensor | None = None
    ended: Tensor | None = None

    def loss(self, network: "Network", at: Tensor, ranked: float) -> Tensor:
        """Cross-entropy of rows ``at``, plus ``ranked`` times their ranked probability score."""
        logits = network(self.batch(at))
        loss = loss_of(logits, self.possible[at])
        if ranked == 0.0:
            return loss
        if self.seen is None or self.ended is None:
            raise ValueError("rows: no lengths to score ranks with")
        below = logits.softmax(dim=1).cumsum(dim=1)[:, :-1]
        score = (self.seen[at] * (below - self.ended[at].float()) ** 2).sum(dim=1).mean()
        return loss + ranked * score


def train(network: Network, rows: Rows, held_out: Rows, recipe: Recipe) -> list[float]:
    """AdamW with a cosine schedule; keeps the epoch with the lowest held-out loss. Returns those losses, nats."""
    device = rows.possible.device
    shuffle = torch.Generator(device=device).manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(rows.possible) // recipe.batch_rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=0.1)
    losses: list[float] = []
    best = {}
    for _ in range(recipe.epochs):
        network.train()
        for at in torch.randperm(len(rows.possible), generator=shuffle, device=device).split(recipe.batch_rows):
            loss = rows.loss(network, at, recipe.ranked)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        losses.append(_held_out_loss(network, held_out, recipe.ranked))
        if losses[-1] == min(losses):
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return losses


def _held_out_loss(network: Network, rows: Rows, ranked: float) -> float:
    network.eval()
    with torch.inference_mode():
        parts = torch.arange(len(rows.possible), device=rows.possible.device).split(8192)
        sums = [float(rows.loss(network, at, ranked)) * len(at) for at in parts]
    return sum(sums) / len(rows.possible)


def predict(network: Network, rows: Rows) -> Array:
    """Probabilities [rows, bins]."""
    network.eval()
    with torch.inference_mode():
        parts: Sequence[Tensor] = torch.arange(len(rows.possible), device=rows.possible.device).split(8192)
        return np.concatenate([_numpy(network(rows.batch(at)).softmax(dim=1)) for at in parts])
