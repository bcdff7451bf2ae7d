"""Kills at any moment and disks that fill up: the finished store is the one made in peace, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.command import EXIT_FAILED
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.claim import claim
from pipeline.store.files import Folder, FullDiskError
from pipeline.store.ledger import read_ledger
from schemas.metadata import CLAIM_FILE, PLAN_FILE, STORE_FILE

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
PAGE_BYTES = 4096  # what a file takes of a tmpfs is a multiple of it
WORKERS = 2  # of the chaos script


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of so many bytes, or changes its size; its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size_bytes):
        options = f"{'remount,' if folder.is_mount() else ''}size={size_bytes}"
        command = [shutil.which("mount") or "/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk is a tmpfs, which could not be mounted here: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run([shutil.which("umount"), "--lazy", str(folder)], check=True)


def test_a_worker_the_driver_and_a_node_killed_in_the_middle_change_no_byte(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    results = tmp_path / "chaos.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--kills", "3"]
    command += ["--format", "webdataset", "--json", str(results)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["kind"]: row for row in json.loads(results.read_bytes())["rows"]}
    assert (rows["all"]["identical"], rows["all"]["lost"]) == (True, 0), rows
    for kind in ("worker", "driver", "raylet"):
        assert rows[kind]["kills"] == 1, rows
        assert rows[kind]["in_flight"] <= WORKERS, rows
        assert rows[kind]["rewritten"] <= WORKERS, rows


def test_a_full_disk_ends_the_run_with_one_message_and_a_start_with_room_goes_on(
    corpus, tokenizer, ray_here, disk, digests, tmp_path, capfd
):
    shape = {"resolution": 32, "num_frames": 4, "fps": "8", "tubelet": "2x8", "shard_size": 4, "num_workers": 1}
    prepare(PrepareConfig(input=(str(corpus),), output=str(tmp_path / "clips"), **shape))
    flags = {"shards": str(tmp_path / "clips"), "tokenizer": tokenizer, "shard_size": 4, "num_workers": 1}
    peace = tmp_path / "peace"
    summary = encode(EncodeConfig(output=str(peace), **flags))

    pages = [-(-path.stat().st_size // PAGE_BYTES) for path in peace.rglob("*") if path.is_file()]
    store = disk(sum(pages) // 2 * PAGE_BYTES) / "latents"
    capfd.readouterr()
    with pytest.raises(FullDiskError, match=rf"^{store}: the disk is full .* make room and start"):
        encode(EncodeConfig(output=str(store), **flags))
    assert "Traceback" not in "".join(capfd.readouterr())
    committed = read_ledger(Folder(str(store)))
    assert 0 < len(committed) < summary.shards
    assert all(Folder(str(store)).holds(record.file) for record in committed.values())
    assert not (store / STORE_FILE).exists()

    disk(1 << 24)
    resumed = encode(EncodeConfig(output=str(store), **flags))
    assert len(committed) <= resumed.resumed_shards < resumed.shards
    assert verify(VerifyConfig(store=str(store))).problems == []
    assert digests(store) == digests(peace)


def test_a_full_disk_ends_the_command_with_one_message_and_its_exit_code(corpus, tokenizer, start_job, disk):
    store = disk(64 * PAGE_BYTES) / "latents"  # holds the plan, and not the first shard of clips: eight of 32 KiB
    process = start_job(
        *("encode", "--input", str(corpus / "bikes.mp4"), "--tokenizer", tokenizer, "--output", str(store)),
        *("--resolution", "128", "--num-frames", "4", "--dtype", "float32", "--logvar", "--flip", "--shard-size", "8"),
    )
    output, _ = process.communicate()
    assert process.returncode == EXIT_FAILED, output
    assert output.count("the disk is full") == output.count("error:") == 1
    assert f"error: {store}: the disk is full" in output
    assert "Traceback" not in output
    assert (store / PLAN_FILE).exists()
    assert not (store / STORE_FILE).exists()


def test_a_file_that_finds_no_room_is_named_and_the_earlier_one_stays(disk):
    folder = Folder(str(disk(16 * PAGE_BYTES)))
    folder.write_bytes("a/b.bin", b"earlier")
    with pytest.raises(FullDiskError, match=rf"^{folder.url}: the disk is full .*, a/b.bin was not written"):
        folder.write_bytes("a/b.bin", bytes(20 * PAGE_BYTES))
    assert folder.find() == ["a/b.bin"]
    assert folder.read_bytes("a/b.bin") == b"earlier"


def test_an_upload_whose_local_copy_finds_no_room_names_the_local_disk(disk, monkeypatch):
    place = disk(16 * PAGE_BYTES)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    folder = Folder("memory://full/store")
    with pytest.raises(FullDiskError, match=rf"^{place}: the disk is full"):
        folder.write_bytes("a.bin", bytes(20 * PAGE_BYTES))
    assert folder.find() == []
    assert list(place.iterdir()) == []


def test_a_claim_on_a_full_disk_says_so_and_leaves_nothing(disk):
    place = disk(4 * PAGE_BYTES)
    (place / "ballast").write_bytes(bytes(4 * PAGE_BYTES))
    folder = Folder(str(place / "store"))
    with (
        pytest.raises(FullDiskError, match=rf"^{folder.url}: the disk is full .*, {CLAIM_FILE} was not"),
        claim(folder),
    ):
        pass
    assert folder.find() == []
    (place / "ballast").unlink()
    with claim(folder):
        assert folder.find() == [CLAIM_FILE]
