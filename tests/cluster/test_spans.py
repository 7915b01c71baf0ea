"""A span that is made once it has ended is the span that it would have been."""

import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cluster.spans import end_span, from_carrier, start_late_span, to_carrier
from cluster.telemetry import ATTR_OUTCOME, Outcome

SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
NOT_SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


class Queue:
    """Calls what it is given when it is told to."""

    def __init__(self) -> None:
        self.acts: list[Callable[[], None]] = []

    def run(self) -> None:
        for act in self.acts:
            act()


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def find_one(exporter: InMemorySpanExporter) -> ReadableSpan:
    [span] = exporter.get_finished_spans()
    return span


def test_it_has_the_parent_the_times_and_the_attributes_of_its_call(
    exporter: InMemorySpanExporter,
) -> None:
    queue = Queue()
    before_ns = time.time_ns()
    late = start_late_span("late", {"a": 1}, queue.acts.append, context=from_carrier(SAMPLED))
    started_ns = time.time_ns()
    late.set_attribute("b", "two")
    late.set_attributes({"a": 3, "c": 0.5})
    end_span(late, Outcome.SUCCEEDED, end_ns=started_ns + 7)
    assert exporter.get_finished_spans() == ()

    queue.run()

    span = find_one(exporter)
    assert span.parent is not None
    assert trace.format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert span.start_time is not None
    assert before_ns <= span.start_time <= started_ns
    assert span.end_time == started_ns + 7
    assert dict(span.attributes or {}) == {"a": 3, "b": "two", "c": 0.5, ATTR_OUTCOME: "succeeded"}
    assert span.status.status_code is StatusCode.UNSET


def test_it_ends_when_it_was_ended_and_keeps_a_failure(exporter: InMemorySpanExporter) -> None:
    queue = Queue()
    late = start_late_span("late", {}, queue.acts.append, context=from_carrier(SAMPLED))
    end_span(late, Outcome.FAILED, error="broken")
    ended_ns = time.time_ns()
    time.sleep(0.002)

    queue.run()

    span = find_one(exporter)
    assert span.end_time is not None
    assert span.end_time <= ended_ns
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "broken")


def test_what_is_sent_from_within_it_goes_to_its_parent(exporter: InMemorySpanExporter) -> None:
    late = start_late_span("late", {}, Queue().acts.append, context=from_carrier(SAMPLED))

    assert to_carrier(late)["traceparent"] == SAMPLED["traceparent"]


def test_nothing_is_kept_for_later_where_the_parent_is_not_sampled(
    exporter: InMemorySpanExporter,
) -> None:
    queue = Queue()
    late = start_late_span("late", {}, queue.acts.append, context=from_carrier(NOT_SAMPLED))
    end_span(late, Outcome.SUCCEEDED)

    assert queue.acts == []
    assert exporter.get_finished_spans() == ()
