"""OpenAI's rate limit headers, out of cost units. Pure.

`x-ratelimit-*-requests` counts calls like the one that is answered, so that a gateway which knows
only OpenAI's headers can plan with them; `x-ratelimit-*-units` says the same in cost units. Of the
minute and the day it is the one that has less left.
"""

import math

from deployments.quotas import QuotaLimits, QuotaUse, windows


def to_rate_limit_headers(limits: QuotaLimits, use: QuotaUse, units: float) -> dict[str, str]:
    """Return the headers of an answer to a call that costs `units`; none without a limit."""
    bounded = windows(use, limits).values()
    if not bounded:
        return {}
    tightest = min(bounded, key=lambda window: window.remaining)
    reset = format_duration(tightest.reset_s)
    return {
        "x-ratelimit-limit-requests": str(_times(tightest.limit, units)),
        "x-ratelimit-remaining-requests": str(_times(tightest.remaining, units)),
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-limit-units": format_units(tightest.limit),
        "x-ratelimit-remaining-units": format_units(tightest.remaining),
        "x-ratelimit-reset-units": reset,
    }


def format_units(units: float) -> str:
    """Write cost units in plain decimals, which a whole number has none of: `1234567`, `9.323`."""
    return f"{units:.3f}".rstrip("0").rstrip(".")


def format_duration(seconds: float) -> str:
    """Write seconds as OpenAI does: `12ms`, `1s`, `6m0s`, `23h59m59s`; rounded up."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest_s = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"


def _times(available: float, units: float) -> int:
    # Rounding of a decayed sum must not hide a call that fits to the last digit.
    return math.floor(available / units + 1e-9)
