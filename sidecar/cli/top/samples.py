"""One answer of a metrics endpoint, and what two of them say about the time in between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


class Samples:
    """Values by name and labels, as they were at one moment. Raises ValueError for text that is no metrics."""

    def __init__(self, text: str, at_s: float = 0.0) -> None:
        self.at_s = at_s
        self._values: dict[str, list[tuple[Labels, float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values.setdefault(sample.name, []).append((sample.labels, sample.value))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def of(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Labels and value of each series that has these labels."""
        for own, value in self._values.get(name, ()):
            if labels.items() <= own.items():
                yield own, value

    def value(self, name: str, **labels: str) -> float | None:
        """Sum over the series that have these labels; None where there is none, or it is not a number."""
        found = [value for _, value in self.of(name, **labels)]
        return None if not found or math.isnan(sum(found)) else sum(found)

    def values_of(self, label: str, name: str, **labels: str) -> list[str]:
        """Values that a label has, in order."""
        return sorted({own[label] for own, _ in self.of(name, **labels) if label in own})


@dataclass(frozen=True, slots=True)
class Interval:
    """Two answers of one endpoint; `before` is None for the first."""

    before: Samples | None
    now: Samples

    def rate(self, name: str, **labels: str) -> float | None:
        """How much a counter rose in a second; None where nothing is known of the time before."""
        if self.before is None or (after := self.now.value(name, **labels)) is None:
            return None
        return self._rise(name, **labels) / max(self.now.at_s - self.before.at_s, 1e-9) if after else 0.0

    def share(self, part: str, whole: str, **labels: str) -> float | None:
        """Rise of one counter over that of another; None where the other did not rise."""
        if self.before is None:
            return None
        rise = self._rise(whole, **labels)
        return self._rise(part, **labels) / rise if rise > 0 else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Of what a histogram took in meanwhile, interpolated inside its bucket as Prometheus does; None: nothing."""
        edges = sorted({float(own["le"]): own["le"] for own, _ in self.now.of(f"{name}_bucket", **labels)}.items())
        up_to = [(edge, self._rise(f"{name}_bucket", **labels, le=text)) for edge, text in edges]
        if not up_to or up_to[-1][1] <= 0:
            return None
        rank, low, below = q * up_to[-1][1], 0.0, 0.0
        for edge, count in up_to:
            if count >= rank and count > below:
                return low if math.isinf(edge) else low + (edge - low) * (rank - below) / (count - below)
            low, below = (low if math.isinf(edge) else edge), count
        return low

    def _rise(self, name: str, **labels: str) -> float:
        """A counter that fell began anew."""
        after = self.now.value(name, **labels) or 0.0
        before = (self.before.value(name, **labels) if self.before is not None else None) or 0.0
        return after - before if after >= before else after
