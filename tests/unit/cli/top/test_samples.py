import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from sidecar.cli.top.samples import Interval, Samples


def at(registry: CollectorRegistry, at_s: float) -> Samples:
    return Samples(generate_latest(registry).decode(), at_s)


def test_a_rate_is_the_rise_of_all_matching_series_over_the_time_between() -> None:
    registry = CollectorRegistry()
    counter = Counter("plans", "", ["engine"], registry=registry)
    counter.labels("a").inc(5)
    counter.labels("b").inc(1)
    before = at(registry, 10.0)
    counter.labels("a").inc(8)
    counter.labels("b").inc(2)
    interval = Interval(before, at(registry, 12.0))
    assert interval.rate("plans_total") == 5.0
    assert interval.rate("plans_total", engine="b") == 1.0
    assert interval.rate("plans_total", engine="c") is None
    assert Interval(None, before).rate("plans_total") is None


def test_a_counter_that_began_anew_rose_by_what_it_has() -> None:
    interval = Interval(Samples("plans_total 100\n", 0.0), Samples("plans_total 6\n", 2.0))
    assert interval.rate("plans_total") == 3.0


def test_a_quantile_is_of_what_came_in_between_and_interpolated() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", ["part"], buckets=(1.0, 2.0, 4.0), registry=registry)
    for _ in range(100):
        histogram.labels("queue").observe(0.5)
    before = at(registry, 0.0)
    for value in (1.5, 1.5, 3.0, 3.0):
        histogram.labels("queue").observe(value)
    interval = Interval(before, at(registry, 1.0))
    assert interval.quantile(0.5, "seconds", part="queue") == 2.0
    assert interval.quantile(0.75, "seconds", part="queue") == pytest.approx(3.0)
    assert interval.quantile(0.5, "seconds", part="compute") is None
    assert Interval(interval.now, interval.now).quantile(0.5, "seconds") is None


def test_beyond_the_last_edge_a_quantile_is_that_edge() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", buckets=(1.0, 2.0), registry=registry)
    histogram.observe(100.0)
    assert Interval(None, at(registry, 0.0)).quantile(0.99, "seconds") == 2.0


def test_what_is_not_a_number_is_not_known() -> None:
    assert Samples('used{engine="a"} NaN\n').value("used") is None
