"""A store on a server that fails: every operation of a folder does what it does in peace, or says what is wrong."""

import time

import fsspec
import pytest

from benchmarks.s3 import FAULTS, FaultyProxy, environment
from pipeline.media.retry import RetryPolicy
from pipeline.store import faults
from pipeline.store.faults import StorageError
from pipeline.store.files import Folder

PART_BYTES = 50 << 20
"""s3fs uploads files of two of these and more in parts."""


@pytest.fixture
def behind(s3, s3_server, monkeypatch):
    """A folder behind a proxy. The client has one attempt at a request, so that faults come through to us."""
    proxies = []

    def open_folder(**how):
        proxy = FaultyProxy(s3_server, **how).__enter__()
        proxies.append(proxy)
        for name, value in (environment(proxy.url) | {"AWS_MAX_ATTEMPTS": "1"}).items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        return Folder(f"{s3}/store"), proxy

    yield open_folder
    for proxy in proxies:
        proxy.__exit__()


@pytest.fixture
def hasty(monkeypatch):
    """A policy that gives up soon."""
    monkeypatch.setattr(faults, "_POLICY", RetryPolicy(attempts=2, base_seconds=0.01))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_behind_faults_is_one_in_peace(behind, fault):
    folder, proxy = behind(faults=[fault], share=0.25)
    contents = {f"x/{number}": bytes([number]) * (1000 * number) for number in range(6)}
    for path, data in contents.items():
        assert folder.write_bytes(path, data).size_bytes == len(data)
    assert folder.find() == sorted(contents)
    assert folder.read_many(list(contents)) == list(contents.values())
    with folder.open("x/5") as stream:
        stream.seek(-7, 2)
        assert stream.read() == b"\5" * 7
    assert not folder.exists("x/7")
    with pytest.raises(FileNotFoundError, match="store/x/7"):
        folder.read_bytes("x/7")
    with pytest.raises(FileNotFoundError, match="store/x/7"):
        folder.open("x/7")
    folder.remove("x/0")
    folder.remove("x/0")
    assert folder.find() == sorted(contents)[1:]
    assert proxy.injected.total() > 3


@pytest.mark.parametrize("fault", ["reset_after", "error_after"])
def test_a_file_put_only_if_absent_is_known_as_ours_when_the_answer_is_lost(behind, fault):
    folder, proxy = behind(faults=[fault], share=0.5, concerns=lambda method, _path: method == "PUT")
    for number in range(4):
        assert folder.create(f"{number}", b"first") == b"first"
        assert folder.create(f"{number}", b"second") == b"first"
    assert proxy.injected.total() > 2


@pytest.mark.parametrize("fault", ["reset_after", "error_after"])
def test_an_upload_in_parts_whose_completion_is_lost_ends_whole(behind, fault):
    waiting = ["uploadId"]  # the completion alone: parts are put

    def concerns(method, path):
        return method == "POST" and any(name in path and (waiting.remove(name) or True) for name in list(waiting))

    folder, proxy = behind(faults=[fault], share=1.0, concerns=concerns)
    with folder.stage("large.bin") as staged:
        staged.stream.truncate(2 * PART_BYTES + 1)
        record = staged.commit()
    assert proxy.injected == {fault: 1}
    assert folder.holds(record)
    assert folder.find() == ["large.bin"]


def test_a_server_that_fails_everything_is_one_message(behind, hasty):
    folder, _ = behind(faults=["slow_down", "reset_before"], share=1.0)
    message = r"^the storage fails: .*\(2 attempts\): s3://.*/store/a.bin: .*start the same command again"
    for use in (folder.exists, folder.read_bytes, folder.open, folder.remove, lambda path: folder.create(path, b"")):
        with pytest.raises(StorageError, match=message):
            use("a.bin")
    with pytest.raises(StorageError, match=message):
        folder.write_bytes("a.bin", b"1")
    with pytest.raises(StorageError, match=r"^the storage fails: "):
        folder.find()


def test_a_read_that_fails_for_good_in_the_middle_is_one_message(behind, hasty):
    folder, proxy = behind()
    folder.write_bytes("a.bin", bytes(1000))
    with folder.open("a.bin") as stream:
        proxy.faults, proxy.share = ("reset_before",), 1.0
        with pytest.raises(StorageError, match=r"^the storage fails: .*store/a.bin"):
            stream.read()


def test_what_the_server_refuses_is_not_tried_again(behind, monkeypatch):
    folder, proxy = behind()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.filesystem("s3").clear_instance_cache()
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"^s3://.*/store/a.bin: the storage refuses it .* credentials"):
        Folder(folder.url).write_bytes("a.bin", b"1")
    assert time.monotonic() - started < 5
    assert proxy.requests < 4


def test_a_fault_of_a_local_disk_passes_as_it_is(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(IsADirectoryError):
        Folder(str(tmp_path)).read_bytes("a.bin")
