"""Two runs on one output: the second is refused with the name of the first; the dead hold nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline.store.claim import claim
from pipeline.store.files import Folder
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLAIM_FILE

HOLD = (
    "import sys, time\n"
    "from pipeline.store.claim import claim\n"
    "from pipeline.store.files import Folder\n"
    "with claim(Folder(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)
COUNT = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipeline.store.claim import claim\n"
    "from pipeline.store.files import Folder\n"
    "from pipeline.store.plan import RunRefusedError\n"
    "counter, won = Path(sys.argv[1]) / 'counter', 0\n"
    "while won < 20:\n"
    "    try:\n"
    "        with claim(Folder(sys.argv[1])):\n"
    "            counter.write_text(str(int(counter.read_text()) + 1))\n"
    "            won += 1\n"
    "    except RunRefusedError:\n"
    "        pass\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


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


def test_processes_that_race_never_hold_it_together(tmp_path):
    (tmp_path / "counter").write_text("0")
    racers = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "60"


def test_a_claim_is_gone_after_the_run_however_it_ends(folder):
    with claim(folder):
        assert folder.exists(CLAIM_FILE)
    assert folder.find() == []
    with pytest.raises(KeyError), claim(folder):
        raise KeyError
    assert folder.find() == []


def test_a_folder_that_is_held_is_refused_in_the_same_process_too(folder):
    with claim(folder):
        with pytest.raises(RunRefusedError, match=f'"pid": {os.getpid()}'), claim(folder):
            pass
        assert folder.exists(CLAIM_FILE)  # the refused one took nothing away
    with claim(folder):
        pass


def test_a_claim_left_in_an_object_store_is_taken_over_on_demand(memory_url):
    folder = Folder(memory_url)
    folder.write_bytes(CLAIM_FILE, b'{"host": "gone", "pid": 1}')
    with pytest.raises(RunRefusedError, match=r'"host": "gone", "pid": 1.*--break-claim'), claim(folder):
        pass
    with claim(folder, break_claim=True):
        assert json.loads(folder.read_bytes(CLAIM_FILE))["pid"] == os.getpid()
    assert not folder.exists(CLAIM_FILE)
