"""The ledger as a Ray actor, and those who write to it and read it. Its loss stops nobody."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray
from ray.exceptions import RayError

from deployments.backlog import REPORT_PERIOD_S, ReplicaReport
from deployments.demand import DemandReport
from deployments.ledger import Ledger, LedgerView

ACTOR_NAME: Final = "zimage-ledger"
NAMESPACE: Final = "zimage"
_ANSWER_WITHIN_S: Final = 2.0
_HEAD_NODE: Final = {"node:__internal_head__": 0.001}
"""A resource that every head node has, and nobody else. Elsewhere the ledger would keep a pool's
node alive that has nothing to do, and die with it."""

logger = logging.getLogger("ray.serve.zimage")


def open_ledger() -> Any:
    """Return the cluster's one ledger, started by whoever asks first, on the head node."""
    return (
        ray.remote(Ledger)
        .options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            resources=_HEAD_NODE,
        )
        .remote()
    )


class ReplicaReporter:
    """Tells the ledger every period what a replica holds, from a thread of its own."""

    def __init__(self, build_report: Callable[[int], ReplicaReport]) -> None:
        self._build_report = build_report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-reporter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report no more."""
        self._stop.set()

    def _run(self) -> None:
        ledger = None
        sequence = 0
        while not self._stop.wait(REPORT_PERIOD_S):
            sequence += 1
            try:
                ledger = ledger or open_ledger()
                report = ledger.report.remote(self._build_report(sequence))
                ray.get(report, timeout=_ANSWER_WITHIN_S)
            except RayError as exc:
                logger.warning("the ledger did not answer: %s", type(exc).__name__)
            except Exception:
                # A replica that no longer reports would be there for nobody.
                logger.exception("the ledger could not be told")


class LedgerReader:
    """Exchanges demand for the ledger's view every period, on a router's event loop."""

    def __init__(
        self,
        read_demand: Callable[[], Sequence[DemandReport]],
        on_view: Callable[[LedgerView], None],
    ) -> None:
        self._read_demand = read_demand
        self._on_view = on_view

    async def run(self) -> None:
        """Go on until cancelled."""
        ledger = None
        while True:
            try:
                ledger = ledger or open_ledger()
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    self._on_view(await ledger.ask.remote(list(self._read_demand())))
            except (RayError, TimeoutError) as exc:
                logger.warning("the ledger did not answer: %s", type(exc).__name__)
            except Exception:
                # A router that no longer reads would choose by what it once knew.
                logger.exception("the ledger could not be asked")
            await asyncio.sleep(REPORT_PERIOD_S)
