"""Letting calls finish before a service stops: Serve itself ends its proxies first."""

import logging
import time
from collections.abc import Callable
from typing import Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

_POLL_S: Final = 0.1
_ANSWER_S: Final = 2.0

_logger = logging.getLogger(__name__)


def drain_calls(application: str, *, within_s: float, is_urged: Callable[[], bool]) -> None:
    """Wait until no router has a call, but no longer than `within_s`, and not once urged.

    Calls are taken meanwhile: a service that has always one ends after `within_s`.
    """
    ends_s = time.monotonic() + within_s
    try:
        routers = serve.get_app_handle(application)
        while time.monotonic() < ends_s and not is_urged():
            counts = routers.broadcast("count_calls").results(timeout_s=_ANSWER_S)
            if not any(counts):
                return
            time.sleep(_POLL_S)
    except (RayError, RayServeException, TimeoutError) as exc:
        # Before the application has begun, or once its cluster has gone, there is nobody to ask.
        _logger.debug("routers do not say whether they have calls: %s", type(exc).__name__)
