"""What the service adds to its stages' own time: router, hops, encoding of the file, storing.

    python tests/benchmarks/overhead.py [--rounds N] [--requests N] [--against NAME=VALUE ...]

One call at a time against a service that this script starts, by Python's own client over one
connection, since what a caller's library takes is not the service's; medians and quartiles over all
calls, and each round's median, which tells how steady the machine is. `hops` is what the router's
total has beside what is timed, `http` what the caller waits beside it. Then, from a second service
that is traced: where each millisecond goes, by the clocks of the processes in a call's order, and
CPU time by process, less what idle ones take. With `--against` the second service is not traced but
has these environment variables, calls of the two alternate, and the difference is told.
"""

import argparse
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from opentelemetry.proto.trace.v1.trace_pb2 import Span

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from otlp_receiver import OtlpReceiver, receive_grpc
from paired_calls import compare_pairs, measure_in_turn
from ray_processes import use_by_kind
from service import Service, run_service

Row = dict[str, float]

OWN = ("encode_ms", "denoise_ms", "decode_ms")
BODY = {"prompt": "a red circle on a blue background", "size": "256x256"}
GENERATIONS = "/v1/images/generations"
STAGES = ("zimage.encode", "zimage.denoise", "zimage.decode", "zimage.store")
SPANS = (f"POST {GENERATIONS}", "zimage.generate", *STAGES)
IDLE_S = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=15, help="calls of a round")
    parser.add_argument("--traced", type=int, default=25, help="calls that are followed; 0 is none")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--against", nargs="+", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.against:
            environment = dict(each.split("=", 1) for each in options.against)
            _compare(folder, environment, options)
            return
        with _start(folder / "plain", options.model) as service:
            caller = Caller(service)
            caller.warm_up(options.warm_up)
            _measure(caller, options)
        if not options.traced:
            return
        with (
            receive_grpc() as receiver,
            _start(folder / "traced", options.model, _traces_to(receiver)) as service,
        ):
            caller = Caller(service)
            caller.warm_up(options.warm_up)
            _follow(caller, receiver, options.traced)


def _start(
    folder: Path, model: str, environment: dict[str, str] | None = None
) -> AbstractContextManager[Service]:
    folder.mkdir()
    arguments = ("--model", model, "--store", str(folder / "images"))
    return run_service(folder, *arguments, environment=environment)


def _traces_to(receiver: OtlpReceiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "ZIMAGE_TELEMETRY__STEP_DETAIL_RATIO": "0",
    }


class Caller:
    """Calls one service, over one connection."""

    def __init__(self, service: Service) -> None:
        self.service = service
        address = urlsplit(service.url)
        self._connection = HTTPConnection(str(address.hostname), address.port, timeout=120)

    def call(self, seed: int, headers: Mapping[str, str] | None = None) -> Row:
        """Ask for one picture."""
        body = json.dumps({**BODY, "seed": seed})
        sent = {"content-type": "application/json", **(headers or {})}
        started = time.perf_counter()
        self._connection.request("POST", GENERATIONS, body, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        wall_ms = 1000 * (time.perf_counter() - started)
        if answer.status != 200:
            raise RuntimeError(f"the service answered {answer.status}: {content.decode()}")
        timings: Row = json.loads(content)["timings"]
        own_ms = sum(timings[name] for name in OWN)
        total_ms = timings["total_ms"]
        return {
            **timings,
            "hops_ms": 2 * total_ms - sum(timings.values()),
            "http_ms": wall_ms - total_ms,
            "wall_ms": wall_ms,
            "overhead_ms": wall_ms - own_ms,
        }

    def warm_up(self, num_calls: int) -> None:
        """Let every process see some calls."""
        for seed in range(num_calls):
            self.call(seed)


def _measure(caller: Caller, options: argparse.Namespace) -> None:
    rows: list[Row] = []
    for index in range(options.rounds):
        seeds = range(1000 * (index + 1), 1000 * (index + 1) + options.requests)
        rows += (found := [caller.call(seed) for seed in seeds])
        median = statistics.median(row["overhead_ms"] for row in found)
        print(f"round {index + 1}: overhead {median:.1f} ms at the median", flush=True)
    _print_rows(rows)


def _print_rows(rows: Sequence[Mapping[str, float]], width: int = 12) -> None:
    print(f"{'ms':>{width}} {'25 %':>8} {'median':>8} {'75 %':>8}   of {len(rows)} calls")
    for name in rows[0]:
        low, median, high = statistics.quantiles([row[name] for row in rows], n=4)
        print(f"{name.removesuffix('_ms'):>{width}} {low:8.1f} {median:8.1f} {high:8.1f}")
    sys.stdout.flush()


def _follow(caller: Caller, receiver: OtlpReceiver, num_calls: int) -> None:
    process = psutil.Process(caller.service.process.pid)
    idle_s, _ = _cpu_during(process, partial(time.sleep, IDLE_S))
    calls: list[tuple[str, int, int]] = []

    def follow_all() -> None:
        for seed in range(num_calls):
            trace_id = secrets.token_hex(16)
            sent_ns = time.time_ns()
            headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
            caller.call(seed, headers)
            calls.append((trace_id, sent_ns, time.time_ns()))

    busy_s, wall_s = _cpu_during(process, follow_all)
    rows = [
        _split(receiver.await_trace(trace_id, *SPANS), sent_ns, received_ns)
        for trace_id, sent_ns, received_ns in calls
    ]
    print("\nwhere it goes, with traces on; stages' own time in brackets")
    _print_rows(rows, width=32)
    print("\nCPU time of one call by process, stages' own work included")
    for name in sorted(busy_s, key=lambda name: -busy_s[name]):
        own_ms = 1000 * (busy_s[name] - idle_s.get(name, 0.0) * wall_s / IDLE_S) / num_calls
        if own_ms >= 0.2:
            print(f"{name:>48} {own_ms:8.1f} ms")
    sys.stdout.flush()


def _split(spans: Iterable[Span], sent_ns: int, received_ns: int) -> Row:
    """Cut a call's time at the borders of its spans; the parts add up to what the caller waited."""
    named = {span.name: span for span in spans}
    http, generate, encode, denoise, decode, store = (named[name] for name in SPANS)
    borders = [
        ("caller to router", http.start_time_unix_nano),
        ("checks", generate.start_time_unix_nano),
        ("choice of a pool, to text encoder", encode.start_time_unix_nano),
        ("(text encoder)", encode.end_time_unix_nano),
        ("back, to denoiser", denoise.start_time_unix_nano),
        ("(denoiser)", denoise.end_time_unix_nano),
        ("back, to VAE decoder", decode.start_time_unix_nano),
        ("(VAE decoder) and file", decode.end_time_unix_nano),
        ("back, to store", store.start_time_unix_nano),
        ("store", store.end_time_unix_nano),
        ("end of the call", generate.end_time_unix_nano),
        ("answer", http.end_time_unix_nano),
        ("router to caller", received_ns),
    ]
    row, before_ns = {}, sent_ns
    for name, border_ns in borders:
        row[name] = (border_ns - before_ns) / 1e6
        before_ns = border_ns
    return row | {"all": (received_ns - sent_ns) / 1e6}


def _cpu_during(process: psutil.Process, act: Callable[[], None]) -> tuple[dict[str, float], float]:
    """Return the CPU seconds of each kind of process meanwhile, and how long it took."""
    before, started = use_by_kind(process), time.monotonic()
    act()
    took_s = time.monotonic() - started
    after = use_by_kind(process)
    return {
        name: use.cpu_s - before[name].cpu_s for name, use in after.items() if name in before
    }, took_s


def _compare(folder: Path, environment: dict[str, str], options: argparse.Namespace) -> None:
    rows: dict[str, list[Row]] = {"plain": [], "against": []}
    with (
        _start(folder / "plain", options.model) as plain,
        _start(folder / "against", options.model, environment) as against,
    ):
        callers = {"plain": Caller(plain), "against": Caller(against)}
        for caller in callers.values():
            caller.warm_up(options.warm_up)

        def measure(name: str) -> float:
            rows[name].append(callers[name].call(len(rows[name])))
            return rows[name][-1]["overhead_ms"]

        ways = {name: partial(measure, name) for name in callers}
        measured = measure_in_turn(ways, options.rounds * options.requests)
    for name, found in rows.items():
        print(name)
        _print_rows(found)
    difference = compare_pairs(measured["plain"], measured["against"])
    print(f"overhead with {' '.join(options.against)}: {difference} ms", flush=True)


if __name__ == "__main__":
    main()
