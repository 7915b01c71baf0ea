"""A real OTLP receiver on a free port, over gRPC or HTTP: keeps the spans that it is sent."""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver(services.TraceServiceServicer):
    """Collects spans."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._spans: list[Span] = []
        self._condition = threading.Condition()

    def environment(self) -> dict[str, str]:
        """Return the variables that have a service export its spans here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's own name
        """Take a batch; both transports call this."""
        with self._condition:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self._spans += scope.spans
            self._condition.notify_all()
        return messages.ExportTraceServiceResponse()

    def spans_of(self, trace_id: str) -> list[Span]:
        """Return what has come of one trace."""
        with self._condition:
            return [span for span in self._spans if span.trace_id.hex() == trace_id]

    def await_trace(self, trace_id: str, *names: str, within_s: float = 30.0) -> list[Span]:
        """Wait for spans of these names, and return all of the trace."""
        deadline = time.monotonic() + within_s
        with self._condition:
            while True:
                spans = [span for span in self._spans if span.trace_id.hex() == trace_id]
                missing = set(names) - {span.name for span in spans}
                left_s = deadline - time.monotonic()
                if not missing:
                    return spans
                if left_s <= 0:
                    raise AssertionError(f"{missing} did not come, {[s.name for s in spans]} did")
                self._condition.wait(left_s)

    def all_spans(self) -> list[Span]:
        """Return everything that has come."""
        with self._condition:
            return list(self._spans)


@contextlib.contextmanager
def receive_grpc() -> Iterator[OtlpReceiver]:
    """Listen for OTLP over gRPC."""
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


class ReceiverApart:
    """A receiver in a process of its own, which takes nothing from whoever measures in this one."""

    def __init__(self, pipe: Connection) -> None:
        self.endpoint = str(pipe.recv())
        self._pipe = pipe

    def count_spans(self) -> int:
        """Return how many spans have come."""
        self._pipe.send("count")
        return int(self._pipe.recv())


@contextlib.contextmanager
def receive_apart() -> Iterator[ReceiverApart]:
    """Listen for OTLP over gRPC in another process; it ends with the block."""
    processes = multiprocessing.get_context("spawn")
    near, far = processes.Pipe()
    process = processes.Process(target=_serve_pipe, args=(far,), daemon=True)
    process.start()
    far.close()
    try:
        with near:
            yield ReceiverApart(near)
    finally:
        process.join()


def _serve_pipe(pipe: Connection) -> None:
    with receive_grpc() as receiver:
        pipe.send(receiver.endpoint)
        with contextlib.suppress(EOFError):
            while pipe.recv():
                pipe.send(len(receiver.all_spans()))


@contextlib.contextmanager
def receive_http() -> Iterator[OtlpReceiver]:
    """Listen for OTLP over HTTP."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = receiver.Export(messages.ExportTraceServiceRequest.FromString(body), None)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes_of(span: Span) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def seconds_of(span: Span) -> float:
    """Return how long a span lasted."""
    return float(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def find_orphans(spans: list[Span], *, root_parent: bytes = b"") -> list[str]:
    """Return the names of spans whose parent is neither among them nor `root_parent`."""
    known = {span.span_id for span in spans} | {root_parent}
    return [span.name for span in spans if span.parent_span_id not in known]
