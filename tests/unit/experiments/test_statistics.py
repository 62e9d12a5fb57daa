"""The statistics keep their promises where the truth is known, and agree with a library where one has them."""

import math

import numpy as np
import pytest
from scipy import stats

from scheduler_service.experiments.analysis.checks import carryover, far_out, lost_blocks, randomisation_p
from scheduler_service.experiments.analysis.effects import deciding_effects, pairs_of
from scheduler_service.experiments.analysis.pairs import Block, Pairs
from scheduler_service.experiments.analysis.power import cautious, deviation, pairs_needed, power
from scheduler_service.experiments.analysis.sequence import anytime_p, centre, evidence_against, interval, tuned
from scheduler_service.experiments.analysis.verdict import verdicts
from scheduler_service.experiments.assignment import arm_of
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES
from tests.unit.experiments.designs import block, design

ALPHA, RUNS, PAIRS = 0.05, 600, 100
TUNING = tuned(40, 0.2, ALPHA)
LATENCY = FIGURES["mean_latency"]
NOISES = {
    "normal": lambda rng: rng.normal(0, 0.2, PAIRS),
    "heavy tails": lambda rng: 0.1 * rng.standard_t(2, PAIRS),
    "two sizes": lambda rng: rng.choice([-1, 1], PAIRS) * np.where(np.arange(PAIRS) % 7 == 0, 1.0, 0.05),
    "far from what was planned": lambda rng: rng.normal(0, 5.0, PAIRS),
}


@pytest.mark.parametrize("noise", NOISES)
def test_looking_after_every_pair_does_not_claim_more_than_alpha(noise: str):
    rng = np.random.default_rng(1)
    claimed = sum(anytime_p(NOISES[noise](rng), TUNING) <= ALPHA for _ in range(RUNS))
    # Alpha is 30 of them; 44 would be a chance of 1 % at exactly alpha.
    assert claimed <= 44


@pytest.mark.parametrize("noise", NOISES)
def test_the_intervals_hold_the_truth_at_every_look(noise: str):
    rng, truth = np.random.default_rng(2), 0.3
    missed = 0
    for _ in range(RUNS):
        missed += evidence_against(truth, NOISES[noise](rng) + truth, TUNING).max() >= math.log(1 / ALPHA)
    assert missed <= 44


def test_a_fixed_interval_at_every_look_would_claim_too_much():
    """What the sequence is for: Student's t after every pair claims a difference in a third of such experiments."""
    rng = np.random.default_rng(3)
    claimed = 0
    for _ in range(200):
        seen = rng.normal(0, 0.2, PAIRS)
        claimed += any(stats.ttest_1samp(seen[:look], 0).pvalue <= ALPHA for look in range(5, PAIRS))
    assert claimed > 40


def test_the_interval_is_where_the_evidence_reaches_one_over_alpha():
    seen = np.random.default_rng(4).normal(0.1, 0.2, 60)
    found = interval(seen, ALPHA, TUNING)
    assert found.low < seen.mean() < found.high
    for edge in (found.low, found.high):
        assert evidence_against(edge, seen, TUNING)[-1] == pytest.approx(math.log(1 / ALPHA), abs=1e-6)


def test_one_block_that_went_wrong_does_not_hide_the_difference():
    seen = np.random.default_rng(6).normal(-0.3, 0.2, 30)
    with_outlier = np.append(seen, -6.0)
    found = interval(with_outlier, ALPHA, TUNING)
    assert found.high < 0
    assert found.low < centre(with_outlier, TUNING) < found.high
    assert centre(with_outlier, TUNING) == pytest.approx(float(seen.mean()), abs=0.05)
    assert centre(seen, TUNING) == pytest.approx(float(seen.mean()), abs=0.01)


def test_few_pairs_bound_nothing():
    assert interval(np.array([0.5, 0.5]), ALPHA, TUNING).high == math.inf
    assert interval(np.zeros(0), ALPHA, TUNING).low == -math.inf


def test_the_power_that_was_planned_comes_about():
    rng, effect = np.random.default_rng(5), math.log(1.1)
    needed = pairs_needed(effect, 0.2, ALPHA, 0.8)
    assert needed is not None
    tuning = tuned(needed, 0.2, ALPHA)
    found = sum(anytime_p(rng.normal(effect, 0.2, needed), tuning) <= ALPHA for _ in range(1000))
    assert found / 1000 == pytest.approx(0.8, abs=0.05)
    assert power(effect, 0.2, needed // 2, ALPHA) < 0.6
    assert pairs_needed(1e-6, 1.0, ALPHA, 0.8) is None


def test_a_small_pilot_is_planned_for_with_more_caution():
    few, many = (deviation(cautious(np.tile([0.1, -0.1], n))) for n in (5, 500))
    exact = math.sqrt(10 / stats.chi2.ppf(0.2, 10)) * 0.1
    assert few == pytest.approx(exact, rel=0.01)
    assert 0.1 < many < 0.103


def test_the_randomisation_test_is_the_exact_one():
    differences = np.array([0.3, 0.1, 0.25, -0.05, 0.2])
    pairs = Pairs(differences, differences, differences, 0)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    means = np.abs((differences[:, None] * signs).mean(axis=0))
    assert randomisation_p(pairs) == pytest.approx((means >= abs(differences.mean()) - 1e-12).mean())


def blocks_of(made: Design, seed: int, effect: float = 0.0, carried: float = 0.0) -> list[Block]:
    """Log-normal blocks; a treated block is multiplied by `effect`, one after a treated block by `carried`."""
    rng, found = np.random.default_rng(seed), []
    for engine in made.engines:
        before = ""
        for number in range(made.blocks):
            arm = arm_of(made, engine, number).name
            size = rng.normal(0, 0.1) + effect * (arm == "treatment") + carried * (before == "treatment")
            found.append(block(number, arm, 2 * math.exp(size), engine=engine))
            before = arm
    return found


def test_an_arm_that_reaches_into_the_next_block_is_found_out():
    made = design(groups=40)
    assert not carryover(blocks_of(made, 1, carried=0.15), ["control", "treatment"], LATENCY).passed
    clean = [carryover(blocks_of(made, seed, effect=0.3), ["control", "treatment"], LATENCY) for seed in range(20)]
    assert sum(not check.passed for check in clean) <= 2
    for blocks in (blocks_of(design(groups=2), 1), blocks_of(design(groups=2), 1)[:1], []):
        few = carryover(blocks, ["control", "treatment"], LATENCY)
        assert (few.passed, few.p) == (True, None)


def test_an_arm_that_loses_requests_or_blocks_is_found_out():
    made = design(groups=40)
    whole = blocks_of(made, 1)
    losing = [Block(b.engine_id, b.number, b.arm, 40 if b.arm == "treatment" else 50, b.figures) for b in whole]
    (judged,) = verdicts(made, losing)
    assert [check.name for check in judged.checks if not check.passed] == ["requests by arm"]
    assert not judged.believable
    empty = [Block(b.engine_id, b.number, b.arm, 0, {}) if b.arm == "treatment" and b.number < 40 else b for b in whole]
    assert not lost_blocks(empty, 2, "treatment", "control").passed
    assert lost_blocks(whole, 2, "treatment", "control").passed


def test_an_arm_that_starves_requests_until_they_give_up_is_not_believed():
    made, found = design(groups=40), []
    for b in blocks_of(made, 1, effect=-0.25):
        aborts = 0.1 if b.arm == "treatment" else 0.001 * (b.number % 2)
        found.append(Block(b.engine_id, b.number, b.arm, b.requests, b.figures | {"abort_rate": aborts}))
    (judged,) = verdicts(made, found)
    assert judged.deciding.says == "better"
    assert [check.name for check in judged.checks if not check.passed] == ["requests cut short"]


def test_pairs_far_out_may_not_turn_the_verdict_round():
    most, some = np.full(95, -0.08), np.full(5, 2.3)
    differences = np.random.default_rng(1).permutation(np.concatenate([most, some]))
    for seen, passed in ((differences, False), (most, True)):
        pairs = Pairs(np.exp(seen), np.ones(len(seen)), seen, 0)
        assert far_out(pairs, tuned(100, 0.1, ALPHA)).passed is passed


def test_a_verdict_names_the_better_arm_and_the_size():
    made = design(groups=40)
    (judged,) = verdicts(made, blocks_of(made, 7, effect=math.log(0.8)))
    assert judged.deciding.says == "better"
    assert judged.deciding.low < -0.2 < judged.deciding.high < 0
    assert judged.believable
    (same,) = deciding_effects(made, blocks_of(made, 8))
    assert same.says == "undecided"
    (worse,) = deciding_effects(made, blocks_of(made, 9, effect=0.3))
    assert worse.says == "worse"


def test_void_blocks_do_not_count_and_are_told():
    made = design(groups=3, engines=["e0"])
    whole = blocks_of(made, 1)
    void = [block(b.number, b.arm, 99.0, void="clock") if b.number == 2 else b for b in whole]
    pairs = pairs_of(made, void, "treatment")
    assert (len(pairs), pairs.missing) == (2, 1)
    assert pairs.treated.max() < 90
