"""An S3 server that takes ten seconds over its one object."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_LISTING: Final = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>
  <Contents><Key>model/model_index.json</Key><Size>8000000</Size></Contents>
</ListBucketResult>"""
_SIZE: Final = 8_000_000
_PIECE: Final = b" " * 40_000
_PAUSE_S: Final = 0.05


@contextmanager
def slow_store() -> Iterator[str]:
    """Run one and yield its URL."""
    ends = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "list-type" in self.path:
                self._begin(len(_LISTING))
                self.wfile.write(_LISTING)
                return
            self._begin(_SIZE)
            with suppress(OSError):
                while not ends.wait(_PAUSE_S):
                    self.wfile.write(_PIECE)

        def do_HEAD(self) -> None:
            self._begin(_SIZE)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _begin(self, size: int) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ends.set()
        server.shutdown()
        thread.join()
        server.server_close()
