"""Two runs on one output: the second is refused with the name of the first; the dead hold nothing, or not for long."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from benchmarks.s3 import FaultyProxy, environment
from pipeline.store.claim import claim
from pipeline.store.faults import StorageError
from pipeline.store.files import Folder
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLAIM_FILE

LEASE = 1.5

HOLD = (
    "import sys, time\n"
    "from pipeline.store.claim import claim\n"
    "from pipeline.store.files import Folder\n"
    "from pipeline.store.plan import RunRefusedError\n"
    "try:\n"
    "    with claim(Folder(sys.argv[1]), lease_seconds=float(sys.argv[2])) as hold:\n"
    "        print('held', flush=True)\n"
    "        while True:\n"
    "            hold.check()\n"
    "            time.sleep(0.05)\n"
    "except RunRefusedError as error:\n"
    "    print(error, flush=True)\n"
)
COUNT = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipeline.store.claim import claim\n"
    "from pipeline.store.files import Folder\n"
    "from pipeline.store.plan import RunRefusedError\n"
    "counter, won = Path(sys.argv[2]), 0\n"
    "while won < int(sys.argv[3]):\n"
    "    try:\n"
    "        with claim(Folder(sys.argv[1]), lease_seconds=5):\n"
    "            counter.write_text(str(int(counter.read_text()) + 1))\n"
    "            won += 1\n"
    "    except RunRefusedError:\n"
    "        pass\n"
)


def left(folder):
    """What claims there are in a folder (which SeaweedFS itself takes for a file once it is empty)."""
    return [path for path in folder.find() if path.startswith("claim")]


@pytest.fixture
def hold():
    """Start a process that holds a folder until it loses it, and wait until it does."""
    started = []

    def start(url, **variables):
        command = [sys.executable, "-c", HOLD, url, str(LEASE)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | variables)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def holder(hold, tmp_path):
    """Another process that holds the folder."""
    return hold(str(tmp_path))


@pytest.fixture(params=["local", "object"])
def folder(request, tmp_path, memory_url):
    return Folder(str(tmp_path) if request.param == "local" else memory_url)


def test_a_second_process_is_refused_with_the_name_of_the_first(holder, tmp_path):
    with pytest.raises(RunRefusedError, match=f'"pid": {holder.pid}'), claim(Folder(str(tmp_path))):
        pass
    assert json.loads((tmp_path / CLAIM_FILE).read_bytes())["pid"] == holder.pid


def test_the_claim_of_a_killed_process_is_free_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / CLAIM_FILE).exists()  # it had no time to clean up
    with claim(Folder(str(tmp_path))):
        assert json.loads((tmp_path / CLAIM_FILE).read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_processes_that_race_never_hold_it_together(kind, s3, tmp_path):
    times = {"local": 20, "s3": 4}[kind]
    counter = tmp_path / "counter"
    counter.write_text("0")
    url = {"local": str(tmp_path / "store"), "s3": f"{s3}/store"}[kind]
    command = [sys.executable, "-c", COUNT, url, str(counter), str(times)]
    racers = [subprocess.Popen(command) for _ in range(3)]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0, 0]
    assert counter.read_text() == str(3 * times)
    assert left(Folder(url)) == []


def test_a_claim_is_gone_after_the_run_however_it_ends(folder):
    with claim(folder):
        assert folder.exists(CLAIM_FILE)
    assert folder.find() == []
    with pytest.raises(KeyError), claim(folder):
        raise KeyError
    assert folder.find() == []


def test_a_folder_that_is_held_is_refused_in_the_same_process_too(folder):
    with claim(folder, lease_seconds=LEASE):
        refusal = pytest.raises(RunRefusedError, match=f'"pid": {os.getpid()}')
        with refusal, claim(folder, lease_seconds=LEASE):
            pass
        assert folder.exists(CLAIM_FILE)  # the refused one took nothing away
    with claim(folder):
        pass


def test_a_claim_left_in_an_object_store_is_taken_over_on_demand(memory_url):
    folder = Folder(memory_url)
    folder.write_bytes(CLAIM_FILE, b'{"host": "gone", "pid": 1}')
    with claim(folder, break_claim=True, lease_seconds=LEASE):
        with pytest.raises(RunRefusedError, match=f'"pid": {os.getpid()}'), claim(folder, lease_seconds=LEASE):
            raise AssertionError("it is held")
        assert folder.exists(CLAIM_FILE)
    assert folder.find() == []


def test_the_claim_of_a_killed_process_runs_out_and_so_does_that_of_who_took_it_over(s3, hold, caplog):
    folder = Folder(f"{s3}/store")
    for _ in range(2):
        holder = hold(folder.url)
        holder.kill()
        holder.wait()
    started = time.monotonic()
    with claim(folder, lease_seconds=LEASE) as mine:
        assert time.monotonic() - started >= LEASE
        mine.confirm()
        with (
            pytest.raises(RunRefusedError, match=f'"pid": {os.getpid()}.* It lives'),
            claim(folder, lease_seconds=LEASE),
        ):
            raise AssertionError("it is held")
    assert f'"pid": {holder.pid}' in caplog.text
    assert left(folder) == []


def test_a_live_holder_whose_server_is_slow_is_not_robbed(s3, s3_server, hold):
    with FaultyProxy(s3_server, faults=["drip"], share=1.0) as proxy:
        holder = hold(f"{s3}/store", **environment(proxy.url))
        for _ in range(3):
            with (
                pytest.raises(RunRefusedError, match=f'"pid": {holder.pid}'),
                claim(Folder(f"{s3}/store"), lease_seconds=2 * LEASE),
            ):
                raise AssertionError("it is held")
        holder.kill()
    assert holder.stdout.read() == b""


def test_a_holder_that_was_robbed_stops_and_takes_nothing_from_the_robber(s3, hold):
    folder = Folder(f"{s3}/store")
    holder = hold(folder.url)
    holder.send_signal(signal.SIGSTOP)
    with claim(folder, lease_seconds=LEASE) as mine:
        holder.send_signal(signal.SIGCONT)
        message = holder.stdout.readline().decode()
        assert "was taken over by another run: " in message
        assert f'"pid": {os.getpid()}' in message
        assert holder.wait(timeout=30) == 0
        mine.confirm()


def test_a_robbed_run_ends_with_an_error_even_if_it_never_looked(memory_url):
    folder = Folder(memory_url)
    with (
        pytest.raises(RunRefusedError, match="which has ended"),
        claim(folder, lease_seconds=1000),
        claim(folder, break_claim=True, lease_seconds=1000),
    ):
        pass


@pytest.mark.parametrize("break_claim", [False, True])
def test_of_many_that_take_over_at_once_one_wins(s3, break_claim):
    folder = Folder(f"{s3}/store")
    folder.write_bytes(CLAIM_FILE, b'{"host": "gone", "pid": 1}')
    together, ended = threading.Barrier(5), threading.Event()
    won, refused = [], []

    def start(number):
        together.wait()
        try:
            with claim(folder, break_claim=break_claim, lease_seconds=LEASE):
                won.append(number)
                ended.wait(60)
        except RunRefusedError:
            refused.append(number)

    starters = [threading.Thread(target=start, args=(number,)) for number in range(5)]
    for starter in starters:
        starter.start()
    while len(refused) < 4 and len(won) < 2:
        time.sleep(0.05)
    ended.set()
    for starter in starters:
        starter.join()
    assert (len(won), len(refused)) == (1, 4)
    assert left(folder) == []


def test_a_run_that_a_server_ended_leaves_its_claim_to_run_out(memory_url):
    folder = Folder(memory_url)
    with pytest.raises(StorageError), claim(folder, lease_seconds=LEASE):
        raise StorageError("the storage fails")
    assert folder.exists(CLAIM_FILE)
    with claim(folder, lease_seconds=LEASE) as mine:
        mine.confirm()
    assert folder.find() == []


def test_a_claim_whose_renewals_fail_for_a_while_is_kept(s3, s3_server, monkeypatch):
    faults = ["error_after", "reset_after", "reset_before"]
    with FaultyProxy(s3_server, faults=faults, share=0.3) as proxy:
        for name, value in (environment(proxy.url) | {"AWS_MAX_ATTEMPTS": "1"}).items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        folder = Folder(f"{s3}/store")
        with claim(folder, lease_seconds=0.6) as mine:
            while proxy.injected.total() < 12:
                time.sleep(0.1)
                mine.confirm()
        assert left(folder) == []
