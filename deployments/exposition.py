"""Reading Ray's Prometheus exporters: sums of samples by label, now and over a window. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Labels = Mapping[str, str]


class ExpositionError(ValueError):
    """A page is not in Prometheus' text form."""


def parse_page(page: str) -> list[Sample]:
    """Read the samples of one exporter's page.

    Raises:
        ExpositionError: If it is of another form.
    """
    try:
        return [each for family in text_string_to_metric_families(page) for each in family.samples]
    except (ValueError, IndexError) as exc:
        raise ExpositionError("the page must be metrics in Prometheus' text form") from exc


@dataclass(frozen=True)
class Snapshot:
    """What all exporters showed at one moment."""

    at_s: float
    samples: Mapping[str, tuple[tuple[Labels, float], ...]]
    """By the sample's name."""

    @classmethod
    def from_pages(cls, pages: Iterable[str], at_s: float) -> Self:
        """Parse the exporters' pages.

        Raises:
            ExpositionError: If one is of another form.
        """
        return cls.from_samples((sample for page in pages for sample in parse_page(page)), at_s)

    @classmethod
    def from_samples(cls, samples: Iterable[Sample], at_s: float) -> Self:
        """Sort samples by their names."""
        by_name: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for sample in samples:
            by_name[sample.name].append((sample.labels, sample.value))
        return cls(at_s, {name: tuple(values) for name, values in by_name.items()})

    def sum_by(self, name: str, label: str, **only: str) -> dict[str, float]:
        """Sum a sample's values by one label, of those that have the other labels."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self._select(name, only):
            sums[labels.get(label, "")] += value
        return dict(sums)

    def max_by(self, name: str, label: str, **only: str) -> dict[str, float]:
        """Return a sample's largest value by one label."""
        largest: dict[str, float] = {}
        for labels, value in self._select(name, only):
            key = labels.get(label, "")
            largest[key] = max(value, largest.get(key, value))
        return largest

    def values_of(self, name: str, label: str, **only: str) -> set[str]:
        """Return the different values of a label."""
        return {labels.get(label, "") for labels, _ in self._select(name, only)}

    def _select(self, name: str, only: Labels) -> list[tuple[Labels, float]]:
        return [
            (labels, value)
            for labels, value in self.samples.get(name, ())
            if only.items() <= labels.items()
        ]


@dataclass(frozen=True)
class Window:
    """Two snapshots, for rates of counters between them."""

    before: Snapshot
    now: Snapshot

    def rate_by(self, name: str, label: str, **only: str) -> dict[str, float]:
        """Return increases a second by one label; a counter that started over counts from zero."""
        seconds = self.now.at_s - self.before.at_s
        before = self.before.sum_by(name, label, **only)
        return {
            key: (value - before.get(key, 0.0) if value >= before.get(key, 0.0) else value)
            / seconds
            if seconds > 0
            else 0.0
            for key, value in self.now.sum_by(name, label, **only).items()
        }
