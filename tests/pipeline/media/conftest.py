"""A web server on the loopback that fails by a rule."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Rule = Callable[[str, int], str | None]
"""Fault of a request by its path and how often that path was asked for before."""


class WebServer:
    """Files by path, and what was asked for."""

    def __init__(self, files: Mapping[str, bytes], rule: Rule, *, ranges: bool, lengths: bool) -> None:
        self.asked: Counter[str] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                path = self.path.partition("?")[0].removeprefix("/")
                with server._lock:
                    fault = rule(path, server.asked[path])
                    server.asked[path] += 1
                if fault == "stall":
                    server.over.wait()
                if fault in ("stall", "reset"):
                    linger = struct.pack("ii", 1, 0)  # close with RST
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    return
                if (fault is not None and fault.isdecimal()) or path not in files:
                    self.send_response(int(fault) if fault is not None and fault.isdecimal() else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = files[path]
                asked = self.headers.get("Range")
                if ranges and asked is not None:
                    start, end = (int(part) for part in asked.removeprefix("bytes=").split("-"))
                    if start >= len(body):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    total, body = len(body), body[start : end + 1]
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
                else:
                    self.send_response(200)
                if lengths:
                    self.send_header("Content-Length", str(len(body)))
                else:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                if fault == "short":
                    body = body[: len(body) // 2]
                    self.close_connection = True
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def never(path: str, before: int) -> str | None:
    return None


@pytest.fixture
def serve() -> Callable[..., object]:
    """Context manager of a server: serve(files, rule, ranges=True, lengths=True)."""

    @contextmanager
    def start(
        files: Mapping[str, bytes], rule: Rule = never, *, ranges: bool = True, lengths: bool = True
    ) -> Iterator[WebServer]:
        server = WebServer(files, rule, ranges=ranges, lengths=lengths)
        try:
            yield server
        finally:
            server.close()

    return start


@pytest.fixture
def faults() -> Callable[[float, tuple[str, ...]], Rule]:
    """Rule of a share of requests that fail, the same ones at each run."""

    def of(share: float, kinds: tuple[str, ...]) -> Rule:
        def rule(path: str, before: int) -> str | None:
            draw = random.Random(f"{path} {before}")
            return draw.choice(kinds) if draw.random() < share else None

        return rule

    return of
