"""S3 servers on the loopback, and a proxy in front of one that fails a stated share of the requests.

Which requests fail, and how, is drawn from a seed, the request (its method, path and query, without what a server made
up), and how often it was made before: the order in which workers ask changes nothing.
"""

import hashlib
import http.client
import http.server
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, urlsplit

KEY, SECRET = "AKTEST0001", "secrettest0001"

FAULTS = ("slow_down", "reset_before", "reset_after", "cut", "drip", "error_after")
"""slow_down: 503, unseen by the server. reset_before, reset_after: the connection ends before the server sees the
request, or after it did as told. cut: it ends in the middle of the answer. drip: the answer comes in small pieces.
error_after: 500, after the server did as told."""

_DRIP_PIECES, _DRIP_SECONDS = 8, 0.5
_PATIENCE_SECONDS = 60.0
_OF_ONE_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server"})
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}, injected</Message></Error>'


def environment(url: str) -> dict[str, str]:
    """Environment of a process whose S3 is the server at `url`."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """URL of a SeaweedFS server that keeps its files in a folder."""
    s3_port, master, volume, filer, admin = _free_ports(5)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    data = folder / "data"
    data.mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={data}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}", f"-s3.port={s3_port}"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-metricsPort=0"]
    with _running(command, f"http://127.0.0.1:{s3_port}", folder) as url:
        yield url


@contextmanager
def moto(folder: Path, python: Path) -> Iterator[str]:
    """URL of moto's S3 server, which keeps its files in memory.

    Args:
        folder: For its log.
        python: Of an environment with moto's server.
    """
    (port,) = _free_ports(1)
    folder.mkdir(parents=True)
    command = [str(python), "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, f"http://127.0.0.1:{port}", folder) as url:
        yield url


@contextmanager
def _running(command: Sequence[str], url: str, folder: Path) -> Iterator[str]:
    log = folder / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{command[0]} does not serve S3 at {url}\n{log.read_text(errors='replace')[-3000:]}"
                )
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - of the loopback
    except HTTPError as error:
        return error.code < 500
    except (URLError, OSError):
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports whose neighbours ten thousand above are free too: SeaweedFS takes those for gRPC."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1] % 20_000 + 20_000
            try:
                with socket.socket() as wanted:
                    wanted.bind(("127.0.0.1", port))
                    high.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


class FaultyProxy(http.server.ThreadingHTTPServer):
    """A proxy on the loopback, from `with` to its end; what it did is in `requests` and `injected`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        upstream: str,
        *,
        faults: Sequence[str] = FAULTS,
        share: float = 0.0,
        seed: int = 0,
        concerns: Callable[[str, str], bool] = lambda _method, _path: True,
    ) -> None:
        """Prepare a proxy.

        Args:
            upstream: URL of the server.
            faults: Which kinds there are, each as often.
            share: Of the requests that fail, 0 to 1.
            seed: Of the draw.
            concerns: Whether a request, by its method and path, may fail at all.
        """
        self.concerns = concerns
        self.faults, self.share, self.seed = tuple(faults), share, seed
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self.upstream = urlsplit(upstream).netloc
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def draw(self, method: str, path: str) -> str | None:
        """The fault of a request, counted; None where it is served."""
        address = urlsplit(path)
        query = [pair for pair in parse_qsl(address.query, keep_blank_values=True) if pair[0] != "uploadId"]
        name = f"{method} {address.path} {sorted(query)}"
        with self._lock:
            self.requests += 1
            self._times[name] += 1
            digest = hashlib.sha256(f"{self.seed} {name} {self._times[name]}".encode()).digest()
            if not self.concerns(method, path) or int.from_bytes(digest[:8]) >= self.share * 2**64:
                return None
            fault = self.faults[digest[8] % len(self.faults)]
            self.injected[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no fault of the proxy; all else is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw(self.command, self.path)
        if fault == "slow_down":
            self._answer(503, {}, _ERROR.format(code="SlowDown").encode())
        elif fault == "reset_before":
            self._reset()
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        # The host stays the proxy's: the client has signed it.
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_HOP}
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=_PATIENCE_SECONDS)
        try:
            upstream.request(self.command, self.path, body=body, headers=headers | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_ONE_HOP}
        if fault == "reset_after":
            self._reset()
        elif fault == "error_after":
            self._answer(500, {}, _ERROR.format(code="InternalError").encode())
        else:
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(answer.status, kept, content, fault, length=length)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, fault: str | None = None, *, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length or str(len(body)))
        if fault == "cut":  # in the headers, where there is no body
            pieces = [b"".join(self._headers_buffer), body]
            self._headers_buffer.clear()
            head = b"".join(pieces)
            self.wfile.write(head[: len(pieces[0]) // 2 if len(body) < 2 else len(pieces[0]) + len(body) // 2])
            self.wfile.flush()
            self._reset()
            return
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "drip":
            step = len(body) // _DRIP_PIECES + 1
            for start in range(0, len(body), step):
                time.sleep(_DRIP_SECONDS / _DRIP_PIECES)
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection so that the client gets a reset, not an end of file."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def log_message(self, *arguments: object) -> None:
        """Nothing: what it did is counted."""
