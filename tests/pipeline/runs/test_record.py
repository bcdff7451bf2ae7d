"""Every start leaves a record of what it was told, what it did, how long it took and how it ended."""

import json
import os
import time
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

import pytest

from pipeline.runs.record import RunRecord, StartClock, recorded
from pipeline.store.files import Folder


@dataclass(frozen=True, kw_only=True)
class Config:
    input: tuple[str, ...] = ("/media/a",)
    fps: Fraction = Fraction(30000, 1001)
    break_claim: bool = False


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path))


def files(folder, name):
    return [json.loads(folder.read_bytes(path)) for path in folder.find("runs") if path.endswith(name)]


def test_the_config_is_there_before_the_work_and_the_record_after(folder):
    with recorded(folder, job="encode", config=Config()):
        assert files(folder, "config.json") == [
            {"job": "encode", "config": {"input": ["/media/a"], "fps": "30000/1001", "break_claim": False}}
        ]
        assert files(folder, "record.json") == []
    (record,) = files(folder, "record.json")
    assert (record["job"], record["error"]) == ("encode", None)
    assert datetime.fromisoformat(record["started"]) <= datetime.fromisoformat(record["finished"])
    assert {"torch", "ray", "numpy", "pyarrow"} <= record["versions"].keys()


@pytest.mark.parametrize("error", [ValueError("bad flag"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_its_error_and_fails_all_the_same(folder, error):
    with pytest.raises(type(error)), recorded(folder, job="encode", config=Config()):
        raise error
    (record,) = files(folder, "record.json")
    assert record["error"] == f"{type(error).__name__}: {error}"


def test_every_start_has_a_record_of_its_own(folder):
    for _ in range(3):
        with recorded(folder, job="encode", config=Config()):
            pass
    assert len(files(folder, "record.json")) == len(files(folder, "config.json")) == 3
    assert all(path.split("/")[1].endswith(f"-{os.getpid()}") for path in folder.find("runs"))


def test_seconds_add_up_by_phase_and_by_step(folder):
    now = time.perf_counter()
    clock = StartClock(started=now - 3.0, called=now - 1.0)
    with recorded(folder, job="encode", config=Config(), clock=clock) as record:
        for _ in range(2):
            with record.phase("work"):
                pass
        with pytest.raises(KeyError), record.phase("fold"):
            raise KeyError
        record.seconds["work"] += 1.0
        record.add_worker_seconds({"decode": 1.5, "write": 0.25})
        record.add_worker_seconds({"decode": 2.0})
        record.counts["stored"] = 7
    (found,) = files(folder, "record.json")
    assert found["worker_seconds"] == {"decode": 3.5, "write": 0.25}
    assert found["counts"] == {"stored": 7}
    assert set(found["seconds"]) == {"imports", "open", "work", "fold", "total"}
    assert found["seconds"]["imports"] == 2.0
    assert found["seconds"]["open"] >= 1.0
    assert found["seconds"]["work"] >= 1.0
    assert 2.0 <= found["seconds"]["total"] < 60


def test_a_config_is_a_dataclass(folder):
    with pytest.raises(AssertionError):
        RunRecord(folder, job="encode", config={"input": "/media/a"})
