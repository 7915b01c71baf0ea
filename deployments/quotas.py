"""How much a key may use: cost units a minute and a day, and calls at once. Pure.

Each window is a bucket that empties at a constant rate: what was used decays by `limit / period`
every second, so there is no edge of a minute at which twice the limit gets through.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0
CONCURRENCY_RETRY_S: Final = 1.0
"""When a running call ends is not known."""

Reason = Literal["minute", "day", "concurrency"]


@dataclass(frozen=True)
class QuotaLimits:
    """What a key may use; None is without bound."""

    units_per_minute: float | None = None
    units_per_day: float | None = None
    max_concurrent_requests: int | None = None

    @property
    def most_units(self) -> float:
        """The dearest call that can ever be let in."""
        return min(self.units_per_minute or math.inf, self.units_per_day or math.inf)


UNLIMITED: Final = QuotaLimits()


@dataclass(frozen=True)
class QuotaUse:
    """What a key has used, and when that was reckoned."""

    minute_units: float = 0.0
    day_units: float = 0.0
    num_running: int = 0
    at_s: float = 0.0


@dataclass(frozen=True)
class Window:
    """Where one of the two windows stands."""

    limit: float
    used: float
    period_s: float

    @property
    def remaining(self) -> float:
        """Cost units that are left now."""
        return max(0.0, self.limit - self.used)

    @property
    def reset_s(self) -> float:
        """Seconds until all of it is there again."""
        return self.used / self.limit * self.period_s

    def wait_s(self, units: float) -> float:
        """Return the seconds until so much fits; none if it does."""
        return max(0.0, self.used + units - self.limit) / self.limit * self.period_s


@dataclass(frozen=True)
class QuotaDecision:
    """Whether a call is let in, and where its key stands after that."""

    use: QuotaUse
    refused: Reason | None
    retry_after_s: float = 0.0


def decay(use: QuotaUse, limits: QuotaLimits, now_s: float) -> QuotaUse:
    """Return what counts as used at a later time."""
    elapsed_s = max(0.0, now_s - use.at_s)
    return replace(
        use,
        minute_units=_decayed(use.minute_units, limits.units_per_minute, MINUTE_S, elapsed_s),
        day_units=_decayed(use.day_units, limits.units_per_day, DAY_S, elapsed_s),
        at_s=max(use.at_s, now_s),
    )


def charge_again(use: QuotaUse, limits: QuotaLimits, now_s: float) -> QuotaDecision:
    """Let in a call that is charged and runs."""
    return QuotaDecision(decay(use, limits, now_s), None)


def charge(use: QuotaUse, limits: QuotaLimits, units: float, now_s: float) -> QuotaDecision:
    """Let a call in and charge it, or say when to come again."""
    use = decay(use, limits, now_s)
    waits = {name: window.wait_s(units) for name, window in windows(use, limits).items()}
    name = max(waits, key=waits.__getitem__, default=None)
    if name is not None and waits[name] > 0:
        return QuotaDecision(use, name, waits[name])
    most = limits.max_concurrent_requests
    if most is not None and use.num_running >= most:
        return QuotaDecision(use, "concurrency", CONCURRENCY_RETRY_S)
    charged = replace(
        use,
        minute_units=use.minute_units + units,
        day_units=use.day_units + units,
        num_running=use.num_running + 1,
    )
    return QuotaDecision(charged, None)


def refund(use: QuotaUse, limits: QuotaLimits, units: float, elapsed_s: float) -> QuotaUse:
    """Give back what is left of units that were charged so long ago; the rest has decayed."""
    minute = _decayed(units, limits.units_per_minute, MINUTE_S, elapsed_s)
    day = _decayed(units, limits.units_per_day, DAY_S, elapsed_s)
    return replace(
        use,
        minute_units=max(0.0, use.minute_units - minute),
        day_units=max(0.0, use.day_units - day),
    )


def windows(use: QuotaUse, limits: QuotaLimits) -> dict[Reason, Window]:
    """Return the windows that are bounded."""
    found: dict[Reason, Window] = {}
    if limits.units_per_minute is not None:
        found["minute"] = Window(limits.units_per_minute, use.minute_units, MINUTE_S)
    if limits.units_per_day is not None:
        found["day"] = Window(limits.units_per_day, use.day_units, DAY_S)
    return found


def _decayed(used: float, limit: float | None, period_s: float, elapsed_s: float) -> float:
    return 0.0 if limit is None else max(0.0, used - elapsed_s * limit / period_s)
