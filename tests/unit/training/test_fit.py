import numpy as np
import pytest

from predictor_service.training.fit import Table, bin_frequency, fit
from predictor_service.training.labels import log_edges
from predictor_service.training.networks import Recipe
from predictor_service.training.states import States

CAP = 64
EDGES = log_edges(8, 4, CAP)


def _table(lengths: list[int], seed: int) -> Table:
    """Hidden states whose first value is what remains, layer 1 of two; the other layer is noise."""
    rng = np.random.default_rng(seed)
    age = np.concatenate([np.arange(n) for n in lengths])
    response = np.repeat(np.arange(len(lengths)), lengths)
    every = np.array(lengths)[response]
    hidden = rng.normal(0, 1, (len(age), 2, 4)).astype(np.float16)
    hidden[:, 0, 0] = (every - age) / 16
    states = States(hidden.reshape(len(age), 8), age, response, every, every < CAP)
    return Table.of(states, (1, 2))


def test_the_layer_that_knows_is_learnt_from_and_a_bin_that_never_came_stays_possible() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, 60).tolist()
    training, validation = _table(lengths, 1), _table(lengths[:20], 2)
    recipe = Recipe(widths=(32,), dropout=0.0, epochs=6, batch_rows=128, learning_rate=1e-2)
    knows, guesses = (fit(training, validation, EDGES, recipe, (layer,), CAP) for layer in (1, 2))
    assert min(knows.losses) < 0.7 * min(guesses.losses)
    frequency = bin_frequency(knows, training, CAP)
    assert frequency.sum() == pytest.approx(1.0)
    # No response was cut, so nothing fell into the open bin; a prior of 0 would make every posterior NaN.
    assert 0 < frequency[-1] < 1e-4


def test_a_network_that_may_not_see_the_age_says_the_same_at_every_age() -> None:
    training = _table([20] * 10, 3)
    fitted = fit(training, training, EDGES, Recipe(widths=(8,), epochs=1, age=False), (2,), CAP)
    same = Table(
        training.hidden[:1].expand(5, -1, -1), (1, 2), np.arange(5), *(part[:5] for part in (
            training.response, training.remaining, training.finished)),
    )  # fmt: skip
    said = fitted.probabilities(same, CAP)
    assert said == pytest.approx(np.repeat(said[:1], 5, axis=0), abs=1e-6)
