"""What a prompt network is asked to get right: the distribution of the length, and which of two prompts runs longer."""

from torch import Tensor
from torch.nn import functional

from predictor_service.training.prompt_data import Lengths

SHARPNESS = 10.0  # of the ranking loss: expected ranks 0.1 apart count as e : 1 odds


def likelihood_loss(logits: Tensor, lengths: Lengths) -> Tensor:
    """Negative log-likelihood of the samples, nats: of their class, or, where cut, of that class and all above.

    The mean over the prompts that have samples.
    """
    log_p = logits.log_softmax(dim=1)
    log_survival = log_p.flip(1).logcumsumexp(dim=1).flip(1)
    total = -(lengths.ended * log_p + lengths.cut * log_survival).sum()
    return total / (lengths.ended + lengths.cut).sum().clamp(min=1)


def ranking_loss(logits: Tensor, lengths: Lengths, rank: Tensor) -> Tensor:
    """Mean pairwise logistic loss (RankNet) over the pairs of the batch that have samples, nats.

    A prompt's score is the rank [classes], 0 to 1, that it expects among all training lengths; the target of a pair is
    how often the one's samples were longer than the other's, a tie counting half.
    """
    score = logits.softmax(dim=1) @ rank
    known = ~lengths.tokens.isnan()
    tokens = lengths.tokens.nan_to_num()
    sign = (tokens[:, None, :, None] - tokens[None, :, None, :]).sign()
    both = (known[:, None, :, None] & known[None, :, None, :]).to(score.dtype)
    count = both.sum((2, 3))
    longer = 0.5 + 0.5 * (sign * both).sum((2, 3)) / count.clamp(min=1)
    margin = SHARPNESS * (score[:, None] - score[None, :])
    weight = (count > 0).to(score.dtype)
    total = functional.binary_cross_entropy_with_logits(margin, longer, weight=weight, reduction="sum")
    return total / weight.sum().clamp(min=1)


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's probabilities [n, classes], nats."""
    return functional.kl_div(logits.log_softmax(dim=1), teacher, reduction="batchmean")


def expected_ranks(lengths: Lengths) -> Tensor:
    """Where the middle of each class lies in the order of all training lengths [classes], 0 to 1."""
    counts = (lengths.ended + lengths.cut).sum(0)
    share = counts / counts.sum()
    ranks: Tensor = share.cumsum(0) - share / 2
    return ranks
