"""The chain on an S3 server: the same bytes as on a local disk, one run at a time, resumed and read."""

import fsspec
import pytest

from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster


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
