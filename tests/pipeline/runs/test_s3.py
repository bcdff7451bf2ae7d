"""The chain on an S3 server: the same bytes as on a local disk, one run at a time, resumed and read."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster

KEY, SECRET = "AKTEST0001", "secrettest0001"


def free_ports(count):
    """Ports whose neighbours ten thousand above are free too: the server takes those for gRPC."""
    found = []
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


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """URL of an empty bucket; its server's address and keys stand in the environment."""
    s3_port, master, volume, filer, admin = free_ports(5)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (tmp_path / "data").mkdir()
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={tmp_path / 'data'}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", f"-s3.config={tmp_path / 's3.json'}", f"-s3.port={s3_port}"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-metricsPort=0"]
    with (tmp_path / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    while True:
        assert server.poll() is None, (tmp_path / "weed.log").read_text()
        try:
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("corpus")
            break
        except OSError:
            time.sleep(0.3)
    yield "s3://corpus"
    fsspec.filesystem("s3").clear_instance_cache()
    server.kill()
    server.wait()


def test_a_store_on_s3_holds_the_bytes_of_one_on_disk(s3, corpus, tokenizer, ray_here, digests, start_job, tmp_path):
    shape = {"resolution": 32, "num_frames": 4, "tubelet": "2x8", "shard_size": 8}
    prepare(PrepareConfig(input=(str(corpus),), output=str(tmp_path / "clips"), **shape))
    local = EncodeConfig(
        shards=str(tmp_path / "clips"), tokenizer=tokenizer, output=str(tmp_path / "latents"), shard_size=8
    )
    encode(local)

    remote = fsspec.filesystem("s3")
    remote.put(str(tmp_path / "clips"), f"{s3}/clips", recursive=True)
    remote.put(tokenizer, f"{s3}/tokenizer", recursive=True)
    remote.pipe_file(f"{s3}/latents/claim.json", b'{"host": "gone", "pid": 7}')
    flags = ("--shards", f"{s3}/clips", "--tokenizer", f"{s3}/tokenizer", "--output", f"{s3}/latents")
    flags += ("--shard-size", "8")

    output, _ = start_job("encode", *flags).communicate()
    assert '"host": "gone"' in output
    assert "--break-claim" in output

    output, _ = start_job("encode", *flags, "--break-claim").communicate()
    assert "26 stored" in output
    remote.get(f"{s3}/latents", str(tmp_path / "fetched"), recursive=True)
    assert digests(tmp_path / "fetched") == digests(tmp_path / "latents")

    output, _ = start_job("encode", *flags).communicate()
    assert "4 of 4 shards (26 clips) were already committed" in output
    process = start_job("verify", "--store", f"{s3}/latents")
    output, _ = process.communicate()
    assert (process.returncode, "0 problems" in output) == (0, True)

    there, here = LatentStore(f"{s3}/latents"), LatentStore(str(tmp_path / "latents"))
    assert len(there) == len(here) == 26
    for one, other in zip(there.batches(7), here.batches(7), strict=True):
        assert one.columns == other.columns
        assert one.latents["mean"].equal(other.latents["mean"])
