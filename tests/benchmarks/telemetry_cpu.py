"""CPU time that telemetry itself takes for one call of eight steps, without any model.

    python tests/benchmarks/telemetry_cpu.py [--calls N] [--detail RATIO]

Everything is on: every trace is sampled, a tenth of them in detail as by default, spans are
serialised as for a collector, OpenTelemetry's meter takes each value, a usage record is opened and
closed. CPU time, since a loaded machine stretches any other. "On the way" is what a call waits for;
"in all" has what is told afterwards and the exporting threads too.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from cluster.cost import Z_IMAGE
from cluster.exporting import CountingSpanProcessor
from cluster.metrics import OtelMeter, use_meters
from cluster.spans import is_sent_chosen, to_carrier
from deployments.afterwards import AFTER_S, Afterwards
from deployments.call_observer import CallObserver
from deployments.drawn_images import DrawnImage, DrawnImages, StageTimes
from deployments.forward_watch import ForwardWatch
from deployments.generation import ImagesOrder
from deployments.log import logger
from deployments.pool_choice import Route
from deployments.served_model import ServedModel
from deployments.stage_telemetry import StageName, StageTelemetry
from deployments.telemetry_config import UsageConfig, UsageFileConfig
from deployments.usage_ledger import build_usage_ledger
from pipeline.denoising.forward_report import ForwardReport
from pipeline.image_file import OutputFormat
from pipeline.request import ImageSize, Priority, RenderPath

SIZE = ImageSize(1024, 1024)
MODEL = ServedModel("m", "r1", SIZE, 8192, 8192, Z_IMAGE)
ROUTE = Route("default", RenderPath.FULL_IMAGE, 1.0, "default (only of 1)")
NEVER_S = 3600.0
LATE_S = 2 * AFTER_S
"""When the spans of stages have been made."""
ENCODE, DENOISE, DECODE = (StageTelemetry(stage) for stage in get_args(StageName))
CALLS_OF_A_BATCH = 2
TIMES = StageTimes(0.01, 0.0, 1.0, 0.1, 0.02, 0.03, 1.2)


class Serialiser(SpanExporter):
    """Does what an OTLP exporter does, up to the wire."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


async def draw(
    index: int, observer: CallObserver, watch: ForwardWatch, detail_ratio: float
) -> None:
    """Go through everything that tells of a call, in the order of a call."""
    order = ImagesOrder(
        f"img-{index}",
        f"req-{index}",
        datetime.now(UTC),
        "a red circle on a blue background",
        1,
        SIZE,
        7,
        8,
        Priority.INTERACTIVE,
        60.0,
        None,
        OutputFormat.PNG,
        None,
    )
    with observer.observe(order) as call:
        await call.accept(ROUTE)
        with ENCODE.span(to_carrier(), {}) as stage:
            stage.run(int)
        sent = to_carrier()
        has_steps = is_sent_chosen(sent, detail_ratio)
        with DENOISE.span(sent, {}, has_more=has_steps) as stage:
            followed = watch.follow(order.id, stage.span)
            for _ in range(8):
                watch(ForwardReport((order.id,), (4.0,), (SIZE,), 0.125))
            stage.took(0.0, 1.0, None)
            watch.let_go(order.id, followed)
        with DECODE.span(to_carrier(), {}) as stage:
            stage.run(int)
        image = DrawnImage("images/1.png", 7, b"", "all", "denoiser", TIMES, followed.share_s)
        call.succeed(DrawnImages([image], ROUTE, 20))


async def run(num_calls: int, detail_ratio: float, folder: Path) -> None:
    """Measure and print."""
    config = UsageConfig(
        enabled=True,
        journal=folder / "journal",
        export=UsageFileConfig(folder=folder / "exported"),
    )
    afterwards = Afterwards(after_s=NEVER_S)
    observer = CallObserver(MODEL, build_usage_ledger(config, MODEL), afterwards)
    watch = ForwardWatch("default", detail_ratio=detail_ratio, measures_at_once=False)

    async def draw_batch(first: int) -> float:
        own_s = time.thread_time()
        for index in range(first, first + CALLS_OF_A_BATCH):
            await draw(index, observer, watch, detail_ratio)
        own_s = time.thread_time() - own_s
        # A denoiser tells of its forwards four times a second: of a few calls at once.
        afterwards.run_all()
        watch.measure()
        return own_s

    for index in range(-100, 0):
        await draw_batch(index * CALLS_OF_A_BATCH)
    await asyncio.sleep(LATE_S)
    num_batches = num_calls // CALLS_OF_A_BATCH
    all_s = time.process_time()
    own_s = [await draw_batch(index * CALLS_OF_A_BATCH) for index in range(num_batches)]
    await asyncio.sleep(LATE_S)
    all_s = time.process_time() - all_s
    num_calls = num_batches * CALLS_OF_A_BATCH
    print(f"{1e3 * sum(own_s) / num_calls:.3f} ms of CPU a call on the way, of {num_calls}")
    print(f"{1e3 * all_s / num_calls:.3f} ms of CPU a call in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--detail", type=float, default=0.1)
    options = parser.parse_args()
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.INFO)
    provider = TracerProvider()
    provider.add_span_processor(CountingSpanProcessor(Serialiser(), max_spans=100_000))
    trace.set_tracer_provider(provider)
    use_meters([OtelMeter(MeterProvider([InMemoryMetricReader()]))])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options.calls, options.detail, Path(folder)))


if __name__ == "__main__":
    main()
