"""Steady load on a mixed cluster while one process after another is killed: nothing is lost."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_load import FaultRun, await_successor, report_lines
from mixed_faults import VICTIMS, draw_undisturbed, run_faults, run_mixed
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_receiver import OtlpReceiver, attributes_of
from service import Service

from cluster.telemetry import ATTR_OUTCOME, SPAN_DENOISE, Outcome

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(2400)]

NUM_REQUESTS = 300
INTERVAL_S = 1.0
REPLACED_WITHIN_S = 120.0

Pixels = dict[tuple[str, str, int], bytes]


@pytest.fixture(scope="module")
def service(folder: Path, receiver: OtlpReceiver) -> Iterator[Service]:
    with run_mixed(folder, receiver.environment()) as service:
        yield service


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> Pixels:
    return draw_undisturbed(service)


@pytest.fixture(scope="module")
def run(service: Service, undisturbed: Pixels) -> FaultRun:
    run = run_faults(service, NUM_REQUESTS, interval_s=INTERVAL_S)
    logger.info("latencies:\n%s", "\n".join(report_lines(run)))
    return run


@pytest.fixture(scope="module")
def num_drawn(run: FaultRun, receiver: OtlpReceiver) -> Counter[str]:
    """How often each call's picture was denoised to the end, by trace."""
    return Counter(span.trace_id.hex() for span in receiver.all_spans() if _is_drawn(span))


def _is_drawn(span: Span) -> bool:
    return span.name == SPAN_DENOISE and attributes_of(span)[ATTR_OUTCOME] == Outcome.SUCCEEDED


def test_every_request_has_its_picture_in_the_store(run: FaultRun, folder: Path) -> None:
    assert len(run.calls) == NUM_REQUESTS
    assert len({call.key for call in run.calls}) == NUM_REQUESTS
    assert [call for call in run.calls if not (folder / "images" / call.key).is_file()] == []


def test_every_picture_is_that_of_the_undisturbed_run(run: FaultRun, undisturbed: Pixels) -> None:
    wrong = [
        call
        for call in run.calls
        if call.pixels != undisturbed[call.order.size, call.path, call.order.seed]
    ]
    assert wrong == []


def test_only_what_died_with_its_picture_is_drawn_again(
    run: FaultRun, num_drawn: Counter[str]
) -> None:
    again = [call for call in run.calls if num_drawn[call.trace_id] > 1]
    logger.info("%d pictures were drawn again", len(again))

    # A process that is killed takes with it the spans of the last moment.
    assert len(num_drawn.keys() & {call.trace_id for call in run.calls}) > 0.9 * NUM_REQUESTS
    assert [call for call in again if not run.may_be_drawn_again(call)] == []
    assert all(num_drawn[call.trace_id] == 2 for call in again)


def test_whatever_was_killed_was_serving_and_is_replaced(service: Service, run: FaultRun) -> None:
    assert [each.victim for each in run.kills] == list(VICTIMS)
    for each in run.kills:
        if not each.victim.is_node:
            await_successor(service, each, within_s=REPLACED_WITHIN_S)
