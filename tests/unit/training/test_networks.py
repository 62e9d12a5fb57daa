import numpy as np
import pytest
import torch

from predictor_service.training.networks import Network, Recipe, Rows, loss_of, possible_bins, predict, train


def test_a_cut_response_may_lie_in_any_bin_above_what_was_seen() -> None:
    possible = possible_bins(torch.tensor([1, 2]), torch.tensor([True, False]), 4)
    assert possible.tolist() == [[False, True, False, False], [False, False, True, True]]


def test_loss_is_cross_entropy_when_finished_and_survival_when_cut() -> None:
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    finished = loss_of(p.log(), possible_bins(torch.tensor([1]), torch.tensor([True]), 4))
    cut = loss_of(p.log(), possible_bins(torch.tensor([2]), torch.tensor([False]), 4))
    assert float(finished) == pytest.approx(-np.log(0.2), rel=1e-5)
    assert float(cut) == pytest.approx(-np.log(0.7), rel=1e-5)


def test_training_learns_a_rule_and_the_exported_layers_say_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, 6)
    bins = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    rows = Rows(lambda at: x[at], possible_bins(bins, torch.ones(2000, dtype=torch.bool), 3))
    recipe = Recipe(widths=(16,), dropout=0.0, epochs=8, batch_rows=64, learning_rate=1e-2)
    network = Network(x.mean(0), 1 / x.std(0), 3, recipe)
    losses = train(network, rows, rows, recipe)
    p = predict(network, rows)
    assert min(losses) < 0.2
    assert np.mean(p.argmax(axis=1) == bins.numpy()) > 0.9
    assert network.dense().probabilities(x.numpy()) == pytest.approx(p, abs=1e-5)
