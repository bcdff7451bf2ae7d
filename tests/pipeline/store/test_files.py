"""A file appears whole or not at all, and no path leaves its folder."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.files import TEMPORARY_FOLDER, FileRecord, Folder, digest_file

PAYLOAD = bytes(range(256)) * 5000  # over one block of the digest


@pytest.fixture(params=["local", "object"])
def folder(request, tmp_path, memory_url):
    return Folder(str(tmp_path / "store") if request.param == "local" else memory_url)


def test_a_staged_file_is_absent_until_its_commit_and_whole_after(folder):
    with folder.stage("a/b.bin") as staged:
        staged.stream.write(PAYLOAD)
        assert not folder.exists("a/b.bin")
        record = staged.commit()
    assert folder.read_bytes("a/b.bin") == PAYLOAD
    assert record == FileRecord(path="a/b.bin", size_bytes=len(PAYLOAD), sha256=hashlib.sha256(PAYLOAD).hexdigest())
    assert folder.find() == ["a/b.bin"]


def test_a_file_that_is_not_committed_leaves_nothing(folder):
    with folder.stage("a/b.bin") as staged:
        staged.stream.write(PAYLOAD)
    assert folder.find() == []


def test_an_exception_leaves_the_earlier_file_as_it_was(folder):
    folder.write_bytes("a/b.bin", b"earlier")

    def fail():
        with folder.stage("a/b.bin") as staged:
            staged.stream.write(PAYLOAD)
            raise RuntimeError("mid-write")

    with pytest.raises(RuntimeError, match="mid-write"):
        fail()
    assert folder.read_bytes("a/b.bin") == b"earlier"
    assert folder.find() == ["a/b.bin"]


def test_a_file_of_an_object_store_leaves_no_local_copy(memory_url, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Folder(memory_url).write_bytes("a.bin", PAYLOAD)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_leaves_no_file_under_the_final_name(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write_bytes("old.bin", b"earlier")
    program = (
        "import sys, time\n"
        "from pipeline.store.files import Folder\n"
        "folder = Folder(sys.argv[1])\n"
        "with folder.stage('new.bin') as new, folder.stage('old.bin') as old:\n"
        "    for staged in (new, old):\n"
        "        staged.stream.write(b'x' * 3_000_000)\n"
        "        staged.stream.flush()\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    leftovers = [path for path in folder.find() if path.startswith(TEMPORARY_FOLDER)]
    assert len(leftovers) == 2  # it was mid-write
    assert sorted(set(folder.find()) - set(leftovers)) == ["old.bin"]
    assert folder.read_bytes("old.bin") == b"earlier"


@pytest.mark.parametrize("path", ["", ".", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "a\\b", "a\0b"])
def test_paths_that_leave_a_folder_are_refused(folder, path):
    for use in (folder.path, folder.exists, folder.read_bytes, folder.open, folder.remove, folder.subfolder):
        with pytest.raises(ValueError, match="is not a path inside"):
            use(path)
    with pytest.raises(ValueError, match="is not a path inside"), folder.stage(path):
        pass


@given(st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "...", "~", "a b"]), max_size=5))
def test_a_path_that_is_accepted_stays_inside(parts):
    folder = Folder("/srv/store")
    try:
        path = folder.path("/".join(parts))
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/srv/store")
    assert os.path.normpath(path) != "/srv/store"


def test_a_folder_names_the_same_place_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Folder("out/")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(pickle.dumps(folder)).write_bytes("a", b"1")
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


def test_a_folder_of_an_object_store_travels(memory_url):
    folder = Folder(memory_url + "/")
    pickle.loads(pickle.dumps(folder)).subfolder("deep/er").write_bytes("a", b"1")
    assert folder.find() == ["deep/er/a"]
    assert not folder.is_local


def test_files_are_found_in_order_and_below(folder):
    for path in ("b", "a/2", "a/10", "c/d/e"):
        folder.write_bytes(path, b"")
    assert folder.find() == ["a/10", "a/2", "b", "c/d/e"]
    assert folder.find("a") == ["a/10", "a/2"]
    assert folder.find("absent") == []


def test_many_files_are_read_in_the_order_asked(folder):
    for path in ("a [1]/x*", "b?", "c"):
        folder.write_bytes(path, path.encode())
    assert folder.read_many(["c", "a [1]/x*", "b?", "c"]) == [b"c", b"a [1]/x*", b"b?", b"c"]
    assert folder.read_many([]) == []
    with pytest.raises(FileNotFoundError):
        folder.read_many(["c", "absent"])


def test_removing_is_safe_to_repeat(folder):
    folder.write_bytes("a/1", b"")
    folder.remove("a")
    folder.remove("a")
    assert folder.find() == []


def test_a_folder_is_removed_while_others_still_write_in_it(tmp_path):
    folder = Folder(str(tmp_path))
    lost = threading.Semaphore(0)
    ended = threading.Event()

    def write():
        while not ended.is_set():
            try:
                folder.write_bytes("written.bin", PAYLOAD)
            except (FileNotFoundError, FileExistsError):  # the folder came or went under it
                lost.release()

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(200):
            while not lost.acquire(blocking=False):
                folder.remove(TEMPORARY_FOLDER)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    folder.remove(TEMPORARY_FOLDER)
    assert set(folder.find()) <= {"written.bin"}


def test_a_missing_file_says_so(folder):
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("absent")


def test_a_record_survives_json():
    record = FileRecord(path="a/b", size_bytes=7, sha256="f" * 64)
    assert FileRecord.from_json(record.to_json()) == record


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(PAYLOAD)
    assert digest_file(tmp_path / "file") == (len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
