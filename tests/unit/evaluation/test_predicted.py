import numpy as np

from predictor_service.evaluation.predicted import Predicted, sample_positions

REQUEST = np.repeat(np.arange(4), [3, 16, 40, 1])


def test_up_to_sixteen_distinct_positions_of_each_request_are_drawn() -> None:
    rows = sample_positions(REQUEST, 16, seed=0)
    assert np.bincount(REQUEST[rows]).tolist() == [3, 16, 16, 1]
    assert (np.diff(rows) > 0).all()


def test_positions_are_drawn_uniformly_and_by_the_seed() -> None:
    draws = [sample_positions(REQUEST, 16, seed) for seed in range(400)]
    share = np.bincount(np.concatenate(draws), minlength=len(REQUEST))[19:59] / 400
    assert abs(share.mean() - 0.4) < 1e-9
    assert (np.abs(share - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 400)).all()
    assert np.array_equal(draws[3], sample_positions(REQUEST, 16, seed=3))


def test_taking_rows_takes_them_of_every_column() -> None:
    columns = [np.arange(60.0) + 100 * number for number in range(5)]
    q = np.arange(120, dtype=np.float32).reshape(60, 2)
    some = Predicted(REQUEST, np.arange(60), *columns, q).take(np.array([5, 50]))
    assert (len(some), some.request.tolist(), some.age.tolist()) == (2, [1, 2], [5, 50])
    assert [some.truth[0], some.mean[0], some.median[0], some.p10[0], some.p90[1]] == [5, 105, 205, 305, 450]
    assert some.q is not None
    assert some.q.tolist() == [[10, 11], [100, 101]]
