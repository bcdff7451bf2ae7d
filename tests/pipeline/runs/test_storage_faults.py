"""Jobs on a server that fails: the bytes of a store in peace, or one message and a start that goes on."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import fsspec
import pytest

from benchmarks.s3 import FaultyProxy, environment
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.planned import Job, run_planned
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.shards import Workers
from pipeline.store.claim import claim
from pipeline.store.files import Folder
from pipeline.store.plan import Plan, PlanCounts, RunRefusedError
from schemas.metadata import STORE_FILE

pytestmark = pytest.mark.cluster

SHAPE = {"resolution": 32, "num_frames": 4, "tubelet": "2x8", "shard_size": 4}
SHAPE_FLAGS = ("--resolution", "32", "--num-frames", "4", "--tubelet", "2x8", "--shard-size", "4")


@pytest.fixture
def proxy(s3_server, monkeypatch):
    """A proxy that fails one request in ten in all ways, with jobs behind it whose S3 client has two attempts."""
    with FaultyProxy(s3_server, share=0.1) as proxy:
        for name, value in (environment(proxy.url) | {"AWS_MAX_ATTEMPTS": "2"}).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(s3, s3_server):
    """The bucket, past the proxy."""
    return fsspec.filesystem("s3", endpoint_url=s3_server)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Of a job of this file."""


def test_a_run_that_was_robbed_closes_no_store_and_says_so(s3, ray_here):
    folder = Folder(f"{s3}/store")

    def make_plan():
        robber.enter_context(claim(folder, break_claim=True))
        return Plan.save(folder, job="encode", identity={}, counts=PlanCounts(media=0, clips=0), shards=[])

    job = Job(
        name="encode",
        store_format="of this test",
        identity={},
        make_stage=lambda: pytest.fail("there is no shard"),
        workers=lambda: Workers(count=1),
        details={},
    )
    refusal = pytest.raises(RunRefusedError, match="was taken over by another run")
    with ExitStack() as robber, refusal:
        run_planned(job, make_plan=make_plan, config=Config(), output=folder)
    assert not folder.exists(STORE_FILE)
    run_planned(job, make_plan=make_plan, config=Config(), output=folder)
    assert folder.exists(STORE_FILE)


def fetched(bucket, url, folder):
    bucket.get(url, str(folder), recursive=True)
    return folder


def test_prepare_from_and_to_a_failing_server_makes_the_bytes_of_one_in_peace(
    s3, bucket, proxy, corpus, ray_here, digests, start_job, tmp_path
):
    bucket.put(str(corpus), f"{s3}/media", recursive=True)
    process = start_job("prepare", "--input", f"{s3}/media", "--output", f"{s3}/clips", *SHAPE_FLAGS)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    # Clips name their media by URL: the peaceful run reads them from where they are, too, and not through the proxy.
    proxy.share = 0.0
    injected = proxy.injected.total()
    process = start_job("prepare", "--input", f"{s3}/media", "--output", str(tmp_path / "peace"), *SHAPE_FLAGS)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert injected > 10
    assert digests(fetched(bucket, f"{s3}/clips", tmp_path / "fetched")) == digests(tmp_path / "peace")


def test_encode_on_a_server_that_falls_sick_stops_with_one_message_and_a_later_start_ends_with_the_same_bytes(
    s3, bucket, proxy, corpus, tokenizer, ray_here, digests, start_job, tmp_path
):
    prepare(PrepareConfig(input=(str(corpus),), output=str(tmp_path / "clips"), **SHAPE))
    flags = {"shards": str(tmp_path / "clips"), "tokenizer": tokenizer, "shard_size": 4}
    encode(EncodeConfig(output=str(tmp_path / "peace"), **flags))
    bucket.put(str(tmp_path / "clips"), f"{s3}/clips", recursive=True)
    bucket.put(tokenizer, f"{s3}/tokenizer", recursive=True)

    argv = ("--shards", f"{s3}/clips", "--tokenizer", f"{s3}/tokenizer", "--output", f"{s3}/latents")
    argv += ("--shard-size", "4", "--num-workers", "1")
    process = start_job("encode", *argv)
    while not bucket.glob(f"{s3}/latents/ledger/*/*.json", refresh=True):
        assert process.poll() is None, process.stdout.read()
        bucket.invalidate_cache()
        time.sleep(0.1)
    proxy.faults, proxy.share = ("reset_before",), 1.0
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert output.count("error: the storage fails: ") == 1
    assert "start the same command again" in output
    own = [line for line in output.splitlines() if "(MapWorker(" not in line]  # pyarrow's half-written file has its say
    assert "Traceback" not in "\n".join(own)
    bucket.invalidate_cache()
    assert not bucket.exists(f"{s3}/latents/{STORE_FILE}")

    proxy.faults, proxy.share = ("slow_down", "reset_after", "error_after"), 0.1
    process = start_job("encode", *argv, "--break-claim")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "were already committed" in output
    assert digests(fetched(bucket, f"{s3}/latents", tmp_path / "fetched")) == digests(tmp_path / "peace")
