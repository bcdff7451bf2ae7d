"""Poison, broken servers and retries: every media is accounted for, and what a passing fault cost comes back."""

import http.server
import json
import os
import random
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from pipeline.runs.clip_flags import ReadFlags
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.retry import RetryConfig, retry_rejects
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger, read_outcomes
from schemas.metadata import PLAN_OUTCOMES_FILE, STORE_FILE

pytestmark = pytest.mark.cluster

FLAGS = {"resolution": 32, "num_frames": 4, "fps": "8", "tubelet": "2x8", "shard_size": 4, "num_workers": 2}

QUICK = ReadFlags(read_backoff_s=0.01)

POISON = b"\x00this picture is poison: "
HOOK = f'''
"""Started by the interpreter itself: a decoder that crashes or hangs on pictures with a mark in them."""
import os, signal, sys, time

if "pipeline.media.sandbox" in sys.orig_argv:
    import io
    from PIL import Image

    opened = Image.open

    def open_poisoned(file, *arguments, **named):
        data = file.getvalue() if isinstance(file, io.BytesIO) else b""
        if {POISON!r} + b"crash" in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        if {POISON!r} + b"hang" in data:
            time.sleep(1000)
        return opened(file, *arguments, **named)

    Image.open = open_poisoned
'''


def ended(store):
    """Outcome rows of a store by the name of their media."""
    folder = Folder(str(store))
    paths = [record.outcomes.path for record in read_ledger(folder).values() if record.outcomes is not None]
    paths += [PLAN_OUTCOMES_FILE] if folder.exists(PLAN_OUTCOMES_FILE) else []
    return {Path(row.media_uri).name: row for path in paths for row in read_outcomes(folder, path)}


def counts(store):
    return json.loads((Path(store) / STORE_FILE).read_bytes())["counts"]


@pytest.fixture(scope="module")
def photographs(corpus, tmp_path_factory):
    """Twelve different pictures."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        with Image.open(corpus / ("coffee.png", "astronaut.png")[number % 2]) as picture:
            picture.convert("RGB").crop((10 * number, 0, 10 * number + 200, 200)).save(folder / f"{number:02}.jpg")
    return folder


def test_a_picture_that_crashes_its_decoder_or_hangs_it_costs_itself(photographs, start_job, tmp_path, monkeypatch):
    media, hook = tmp_path / "media", tmp_path / "hook"
    shutil.copytree(photographs, media)
    for number, what in ((3, b"crash"), (4, b"hang"), (9, b"crash")):
        with (media / f"{number:02}.jpg").open("ab") as file:
            file.write(POISON + what)
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]))
    store = tmp_path / "store"
    process = start_job(
        *("prepare", "--input", str(media), "--output", str(store), "--resolution", "32", "--num-frames", "4"),
        *("--tubelet", "2x8", "--shard-size", "4", "--timeout-s", "3"),
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert counts(store) == {"planned": 12, "stored": 9, "filtered": 0, "rejected": 3}
    rows = ended(store)
    assert {name: (row.reason, row.transient) for name, row in rows.items()} == {
        "03.jpg": ("decoder_crashed", False),
        "04.jpg": ("decoder_timeout", True),
        "09.jpg": ("decoder_crashed", False),
    }
    assert "SIGSEGV" in rows["03.jpg"].message
    assert verify(VerifyConfig(store=str(store))).problems == []


class FailingServer(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback; `fails(path)` says whether a request fails, and how the next one will."""

    daemon_threads = True

    def __init__(self, folder, fails):
        self.folder = folder
        self.fails = fails
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        with self.server.lock:
            fault = self.server.fails(self.path)
        path = self.server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if fault == "reset":
            self.connection.close()
            return
        if fault or not path.is_file():
            self.send_error(fault or 404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(photographs):
    started = []

    def start(fails):
        started.append(FailingServer(photographs, fails))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def listed(server, path, names):
    path.write_text("".join(f"{server.url}/{name}\n" for name in names))
    return str(path)


def test_a_server_that_fails_one_time_in_ten_costs_nothing(photographs, serve, ray_here, tmp_path):
    draw = random.Random(0)
    faults = ["reset", 503, 500, 429]
    seen = []

    def fails(path):
        fault = draw.choice(faults) if draw.random() < 0.1 else None
        seen.append(fault)
        return fault

    names = [f"{number % 12:02}.jpg?copy={number}" for number in range(60)]
    server = serve(fails)
    server.folder = photographs
    urls = listed(server, tmp_path / "urls.txt", [*names, "absent.jpg"])
    prepare(PrepareConfig(input=(urls,), output=str(tmp_path / "store"), **FLAGS))
    assert any(seen), "no request failed, so the test proves nothing"
    assert counts(tmp_path / "store") == {"planned": 61, "stored": 60, "filtered": 0, "rejected": 1}
    assert ended(tmp_path / "store")["absent.jpg"].reason == "missing"


def test_what_a_broken_server_cost_comes_back_as_if_it_had_not_been(serve, digests, ray_here, tmp_path):
    broken = set()
    server = serve(lambda path: 503 if path.strip("/") in broken else None)
    urls = listed(server, tmp_path / "urls.txt", [f"{number:02}.jpg" for number in range(12)])
    config = {"input": (urls,), **FLAGS, "reads": QUICK}
    prepare(PrepareConfig(output=str(tmp_path / "peace"), **config))

    broken |= {"02.jpg", "07.jpg", "08.jpg", "11.jpg"}
    store = tmp_path / "store"
    prepare(PrepareConfig(output=str(store), **config))
    assert counts(store) == {"planned": 12, "stored": 8, "filtered": 0, "rejected": 4}
    rows = ended(store)
    assert {name: (row.reason, row.transient) for name, row in rows.items()} == dict.fromkeys(
        sorted(broken), ("unreadable", True)
    )

    broken -= {"02.jpg", "08.jpg"}
    attempts = rows["07.jpg"].attempts
    summary = retry_rejects(RetryConfig(store=str(store), num_workers=1))
    assert (summary.stored, summary.rejected) == (10, 2)
    assert ended(store)["07.jpg"].attempts == 2 * attempts > attempts
    assert verify(VerifyConfig(store=str(store))).problems == []

    broken.clear()
    assert retry_rejects(RetryConfig(store=str(store), num_workers=1)).rejected == 0
    assert digests(store) == digests(tmp_path / "peace")
    assert retry_rejects(RetryConfig(store=str(store))).worked_clips == 0


def test_a_video_that_could_not_be_planned_gets_shards_of_its_own(corpus, serve, ray_here, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(corpus / "bikes.mp4", folder)
    shutil.copy(corpus / "coffee.png", folder)
    down = True
    server = serve(lambda path: 503 if down and "bikes" in path else None)
    server.folder = folder
    urls = listed(server, tmp_path / "urls.txt", ["bikes.mp4", "coffee.png"])
    store = tmp_path / "store"
    prepare(PrepareConfig(input=(urls,), output=str(store), **FLAGS, reads=QUICK))
    assert counts(store) == {"planned": 2, "stored": 1, "filtered": 0, "rejected": 1}
    down = False
    summary = retry_rejects(RetryConfig(store=str(store)))
    assert (summary.planned, summary.stored, summary.rejected) == (21, 21, 0)
    assert verify(VerifyConfig(store=str(store))).problems == []
    again = prepare(PrepareConfig(input=(urls,), output=str(store), **FLAGS, reads=QUICK))
    assert (again.stored, again.worked_clips) == (21, 0)


def test_a_retry_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a store of prepare_corpus"):
        retry_rejects(RetryConfig(store=str(tmp_path)))


def test_more_rejects_than_are_borne_stop_the_run_with_their_reasons(photographs, start_job, tmp_path):
    media = tmp_path / "media"
    shutil.copytree(photographs, media)
    for number in range(3):
        (media / f"{number:02}.jpg").write_bytes(b"")
    flags = ("--output", str(tmp_path / "store"), "--resolution", "32", "--tubelet", "2x8", "--max-reject-fraction")
    process = start_job("prepare", "--input", str(media), *flags, "0.2")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "3 of 12 planned clips are rejected, more than --max-reject-fraction 0.2: 3 empty_file" in output
    assert "Traceback" not in output
    assert not (tmp_path / "store" / STORE_FILE).exists()
    process = start_job("prepare", "--input", str(media), *flags, "0.25")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert counts(tmp_path / "store") == {"planned": 12, "stored": 9, "filtered": 0, "rejected": 3}
