"""Trains one prompt network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from predictor_service.prompt_sequence import batches
from predictor_service.training.labels import Ints
from predictor_service.training.networks import Array
from predictor_service.training.prompt_data import Lengths, Read
from predictor_service.training.prompt_losses import distillation_loss, likelihood_loss, ranking_loss
from predictor_service.training.prompt_recipes import PromptRecipe

INFERENCE_IDS = 16_384  # most ids of one run, padding included


@dataclass(frozen=True)
class Task:
    """What a network learns: prompts, what came of them, and what a teacher says of them."""

    read: Read
    lengths: Lengths
    rank: Tensor  # [classes] where each class lies among all training lengths, 0 to 1
    teacher: Tensor | None = None  # [prompts, classes]

    def take(self, at: Ints) -> "Task":
        """The same, of some prompts only."""
        where = torch.from_numpy(at).to(self.rank.device)
        teacher = None if self.teacher is None else self.teacher[where]
        return Task(self.read.take(at), self.lengths[where], self.rank, teacher)

    def loss(self, logits: Tensor, at: Tensor, recipe: PromptRecipe) -> Tensor:
        """Of the prompts ``at`` [n], whose logits are given [n, classes]; nats."""
        lengths = self.lengths[at]
        loss = likelihood_loss(logits, lengths)
        if recipe.ranking:
            loss = loss + recipe.ranking * ranking_loss(logits, lengths, self.rank)
        if self.teacher is not None:
            loss = loss + recipe.distillation * distillation_loss(logits, self.teacher[at])
        return loss


@dataclass(frozen=True)
class Epoch:
    """How a network does on held-out prompts: loss in nats, tau-b of the expected rank with each response."""

    loss: float
    tau: float

    @property
    def worth(self) -> float:
        return self.tau - self.loss


def train(network: nn.Module, task: Task, held_out: Task, recipe: PromptRecipe, seed: int) -> list[Epoch]:
    """AdamW, learning rates that rise and fall once; keeps the epoch that is worth most on held-out prompts."""
    rng = np.random.default_rng(seed)
    device = task.rank.device
    optimizer, rates = _optimizer(network, recipe)
    steps = recipe.epochs * -(-len(task.read) // recipe.batch_prompts)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps + 1, pct_start=0.1)
    epochs: list[Epoch] = []
    best = {}
    for _ in range(recipe.epochs):
        network.train()
        for rows in task.read.shuffled(recipe.batch_prompts, rng):
            ids, tokens = task.read.batch(rows)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(_hide(ids, recipe.hidden_ids, task.read.unknown), tokens)
            loss = task.loss(logits.float(), torch.from_numpy(rows).to(device), recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        epochs.append(_judge(network, held_out))
        if epochs[-1].worth == max(epoch.worth for epoch in epochs):
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return epochs


def outputs(network: nn.Module, read: Read) -> Tensor:
    """What a network says of each prompt, in inference: [prompts, ...]."""
    network.eval()
    parts = [np.array(part) for part in batches(read.sizes.tolist(), INFERENCE_IDS)]
    with torch.inference_mode(), torch.autocast(read.ids.device.type, torch.bfloat16, enabled=read.ids.is_cuda):
        found = torch.cat([network(*read.batch(part)).float() for part in parts])
    return found[torch.from_numpy(np.argsort(np.concatenate(parts))).to(found.device)]


def average(networks: Sequence[nn.Module], read: Read) -> Tensor:
    """Mean of the networks' probabilities [prompts, classes]."""
    return torch.stack([outputs(network, read).softmax(dim=1) for network in networks]).mean(0)


def _judge(network: nn.Module, held_out: Task) -> Epoch:
    logits = outputs(network, held_out.read)
    score = (logits.softmax(dim=1) @ held_out.rank).cpu().numpy()
    lengths: Array = held_out.lengths.tokens.cpu().numpy()
    known = ~np.isnan(lengths)
    predicted = np.broadcast_to(score[:, None], lengths.shape)[known]
    tau = kendalltau(predicted, lengths[known]).statistic
    return Epoch(float(likelihood_loss(logits, held_out.lengths)), float(tau))


def _optimizer(network: nn.Module, recipe: PromptRecipe) -> tuple[torch.optim.Optimizer, list[float]]:
    body = network.body
    known = {id(parameter) for parameter in body}
    head = [parameter for parameter in network.parameters() if id(parameter) not in known]
    rates = [recipe.body_learning_rate, recipe.learning_rate]
    groups = [{"params": part, "lr": rate} for part, rate in zip((body, head), rates, strict=True)]
    fused = next(network.parameters()).is_cuda
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=fused), rates


def _hide(ids: Tensor, share: float, unknown: int) -> Tensor:
    """``ids`` with a random share of them unknown, so that no single one decides."""
    if share == 0.0:
        return ids
    return torch.where((torch.rand(ids.shape, device=ids.device) < share) & (ids >= 0), unknown, ids)
