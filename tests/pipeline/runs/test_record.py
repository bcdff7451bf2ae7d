"""Every start leaves a record of what it was told, what it did, how long it took and how it ended."""

import json
import os
import time
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

import pytest

from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import RunRecord, StartClock, recorded
from pipeline.store.faults import StorageError
from pipeline.store.files import Folder
from pipeline.store.lease import Claim
from schemas.metadata import STORE_FILE, ledger_file


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
    with recorded(folder, job="encode", config=Config(), claim=Claim()):
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
    with pytest.raises(type(error)), recorded(folder, job="encode", config=Config(), claim=Claim()):
        raise error
    (record,) = files(folder, "record.json")
    assert record["error"] == f"{type(error).__name__}: {error}"


def test_every_start_has_a_record_of_its_own(folder):
    for _ in range(3):
        with recorded(folder, job="encode", config=Config(), claim=Claim()):
            pass
    assert len(files(folder, "record.json")) == len(files(folder, "config.json")) == 3
    assert all(path.split("/")[1].endswith(f"-{os.getpid()}") for path in folder.find("runs"))


def test_seconds_add_up_by_phase_and_by_step(folder):
    now = time.perf_counter()
    clock = StartClock(started=now - 3.0, called=now - 1.0)
    with recorded(folder, job="encode", config=Config(), claim=Claim(), clock=clock) as record:
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


def test_a_storage_that_fails_the_record_too_hides_no_error(folder, monkeypatch):
    def fail():
        with recorded(folder, job="encode", config=Config(), claim=Claim()):
            monkeypatch.setattr(Folder, "write_bytes", refuse)
            raise KeyError

    def refuse(*arguments):
        raise StorageError("the storage fails")

    with pytest.raises(KeyError):
        fail()
    assert files(folder, "record.json") == []


@pytest.mark.cluster
def test_the_records_of_two_starts_say_where_their_time_went_and_what_was_there_before(corpus, ray_here, folder):
    config = PrepareConfig(
        input=(str(corpus),), output=folder.url, resolution=32, num_frames=4, tubelet="2x8", shard_size=8
    )
    prepare(config)
    folder.remove(STORE_FILE)
    folder.remove(ledger_file(0))
    prepare(config)
    first, second = files(folder, "record.json")
    phases = {"imports", "open", "ray", "resume", "work", "fold"}
    assert first["seconds"].keys() == phases | {"plan", "total"}
    assert second["seconds"].keys() == phases | {"total"}
    for record in (first, second):
        seconds = dict(record["seconds"])
        total = seconds.pop("total")
        assert min(seconds.values()) >= 0
        assert sum(seconds.values()) <= total + 0.001  # they are rounded
        assert {"decode", "commit"} <= record["worker_seconds"].keys()
    assert (first["counts"]["resumed_shards"], first["counts"]["resumed_clips"]) == (0, 0)
    shards = first["counts"]["shards"]
    assert (second["counts"]["resumed_shards"], second["counts"]["shards"]) == (shards - 1, shards)
    worked = [record["counts"]["worked_clips"] for record in (first, second)]
    assert worked[0] > worked[1] == worked[0] - second["counts"]["resumed_clips"] > 0
    assert first["counts"]["stored"] == second["counts"]["stored"]


def test_a_config_is_a_dataclass(folder):
    with pytest.raises(AssertionError):
        RunRecord(folder, job="encode", config={"input": "/media/a"}, claim=Claim())
