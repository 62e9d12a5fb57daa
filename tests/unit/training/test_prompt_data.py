import numpy as np
import pytest
import torch

from predictor_service.prompt import Prompt
from predictor_service.prompt_sequence import Frame, TokenIds
from predictor_service.training.collect import TRAIN, Responses
from predictor_service.training.prompt_data import Lengths, Prompts, Read, common_frame
from predictor_service.training.prompt_losses import distillation_loss, expected_ranks, likelihood_loss, ranking_loss

CPU = torch.device("cpu")
EDGES = np.array([0, 4, 10])


def _prompt(*ids: int) -> Prompt:
    return Prompt(np.array(ids, dtype=np.uint32), len(ids))


def _responses() -> Responses:
    """Prompt 7 with lengths 2, 5 and 12 (cut), then prompt 3 with length 4, out of order."""
    rows = [([1, 2], 5, True), ([1, 3, 4], 4, True), ([1, 2], 2, True), ([1, 2], 12, False)]
    tokens = [np.array([*ids, *([0] * length)], dtype=np.int32) for ids, length, _ in rows]
    return Responses(
        prompt=np.array([7, 3, 7, 7]),
        split=np.full(4, TRAIN),
        seed=np.arange(4),
        prompt_tokens=np.array([len(ids) for ids, _, _ in rows]),
        finished=np.array([finished for _, _, finished in rows]),
        tokens=np.concatenate(tokens),
        offsets=np.cumsum([0, *map(len, tokens)]),
    )


def test_each_prompt_is_read_once_with_all_its_samples() -> None:
    prompts = Prompts.of(_responses(), np.arange(4))
    assert [prompt.token_ids.tolist() for prompt in prompts.prompts] == [[1, 3, 4], [1, 2]]
    assert prompts.of_response.tolist() == [1, 0, 1, 1]
    assert prompts.lengths[0, 0] == 4
    assert np.isnan(prompts.lengths[0, 1:]).all()
    assert prompts.lengths[1].tolist() == [5, 2, 12]
    assert prompts.finished.tolist() == [[True, False, False], [True, True, False]]


def test_lengths_are_shares_of_ended_and_cut_samples() -> None:
    lengths = Lengths.of(Prompts.of(_responses(), np.arange(4)).with_unanswered([_prompt(9)]), EDGES, CPU)
    third = pytest.approx(1 / 3)
    assert lengths.ended.tolist() == [[0, 1, 0], [third, third, 0], [0, 0, 0]]
    assert lengths.cut.tolist() == [[0, 0, 0], [0, 0, third], [0, 0, 0]]
    assert expected_ranks(lengths).tolist() == pytest.approx([1 / 12, 1 / 2, 11 / 12])


def test_the_frame_is_what_all_prompts_share_at_both_ends_and_never_overlaps() -> None:
    frame = common_frame([_prompt(1, 2, 5, 6, 9), _prompt(1, 2, 7, 9), _prompt(1, 2, 5, 9)])
    assert (frame.prefix.tolist(), frame.suffix.tolist()) == ([1, 2], [9])
    same = common_frame([_prompt(1, 1, 1), _prompt(1, 1, 1, 1)])
    assert len(same.prefix) + len(same.suffix) == 3


def test_batches_hold_every_prompt_once_are_cut_to_their_longest_and_differ_from_epoch_to_epoch() -> None:
    encode = TokenIds(Frame(np.zeros(0, np.uint32), np.zeros(0, np.uint32)), most_ids=64, vocabulary=100)
    prompts = [_prompt(*range(1 + i % 40)) for i in range(300)]
    read = Read.of(prompts, encode, CPU)
    rng = np.random.default_rng(0)
    first, second = (list(read.shuffled(32, rng)) for _ in range(2))
    assert sorted(np.concatenate(first).tolist()) == list(range(300))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    ids, tokens = read.batch(first[0])
    assert ids.shape == (len(first[0]), read.sizes[first[0]].max())
    assert tokens.tolist() == [len(prompts[i].token_ids) for i in first[0]]
    assert read.take(first[0]).ids[:, : ids.shape[1]].tolist() == ids.tolist()
    spread = np.mean([np.ptp(read.sizes[batch]) for batch in first])
    assert spread < 10, "prompts of one batch are about as long as each other"


def test_the_likelihood_of_an_ending_is_its_bins_and_of_a_cut_that_of_all_above() -> None:
    p = torch.tensor([[0.1, 0.2, 0.7]])
    none, one = torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]])
    tokens = torch.tensor([[5.0]])
    assert float(likelihood_loss(p.log(), Lengths(one, none, tokens))) == pytest.approx(-np.log(0.2), rel=1e-5)
    assert float(likelihood_loss(p.log(), Lengths(none, one, tokens))) == pytest.approx(-np.log(0.9), rel=1e-5)
    assert float(likelihood_loss(p.log(), Lengths(none, none, tokens))) == 0


def test_the_ranking_loss_falls_as_scores_come_into_order_and_ignores_prompts_without_samples() -> None:
    nan = float("nan")
    tokens = torch.tensor([[5.0, 7.0], [50.0, nan], [nan, nan]])
    nothing = torch.zeros(3, 3)
    rank = torch.tensor([0.1, 0.5, 0.9])
    short, long = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 4.0])

    def loss(*rows: torch.Tensor) -> float:
        return float(ranking_loss(torch.stack(rows), Lengths(nothing, nothing, tokens), rank))

    assert loss(short, long, short) < loss(short, short, short) < loss(long, short, short)
    assert loss(short, long, short) == pytest.approx(loss(short, long, long))


def test_distillation_is_least_at_the_teachers_own_probabilities() -> None:
    teacher = torch.tensor([[0.2, 0.3, 0.5]])
    assert float(distillation_loss(teacher.log(), teacher)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(torch.zeros(1, 3), teacher)) > 0.01
