"""A merged store holds the rows and the bytes of those it is made of, each once, whatever the kills."""

import hashlib
import shutil
import time

import fsspec
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.merge import MergeConfig, merge
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.files import Folder
from pipeline.store.plan import Plan, RunRefusedError
from pipeline.store.verify import open_any_store
from schemas.metadata import PLAN_OUTCOMES_FILE
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster

PARTS = (("astronaut.png", "chelsea.png", "coffee.png", "notes.mp4"), ("rocket.jpg", "camera.png", "bikes.mp4"))


def merged(stores, output, **changes):
    return merge(MergeConfig(stores=tuple(map(str, stores)), output=str(output), **{"num_workers": 1} | changes))


def rows_of(store):
    """Keys and means, in order."""
    batches = list(LatentStore(str(store)).batches(64))
    keys = [key for batch in batches for key in batch.columns["key"]]
    return keys, torch.cat([batch.latents["mean"].flatten() for batch in batches])


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    """Two clip stores, made alike."""
    outputs = []
    for names in PARTS:
        output = tmp_path_factory.mktemp("clips")
        flags = {"resolution": 32, "num_frames": 4, "fps": "2", "tubelet": "2x8", "shard_size": 2, "num_workers": 1}
        prepare(PrepareConfig(input=tuple(str(corpus / name) for name in names), output=str(output), **flags))
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module")
def latents(clips, tokenizer, tmp_path_factory):
    """Their latents."""
    outputs = []
    for source in clips:
        output = tmp_path_factory.mktemp("latents")
        flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
        encode(EncodeConfig(shards=str(source), tokenizer=tokenizer, output=str(output), **flags))
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module")
def whole(latents, tmp_path_factory):
    """The latent stores, merged."""
    output = tmp_path_factory.mktemp("merged")
    merged(latents, output)
    return output


def test_merged_latents_are_those_of_the_stores_in_their_order(latents, whole):
    expected = [rows_of(store) for store in latents]
    keys, means = rows_of(whole)
    assert sorted(keys) == sorted(key for part, _ in expected for key in part)
    stores = [open_any_store(Folder(str(store))) for store in (*latents, whole)]
    copied = [(row.bucket, row.sha256, row.stored) for row in stores[-1].rows]
    assert copied == [(row.bucket, row.sha256, row.stored) for store in stores[:-1] for row in store.rows]
    assert means.numel() == sum(part.numel() for _, part in expected)

    values = torch.cat([batch.latents["mean"].double().reshape(-1, 4) for batch in LatentStore(str(whole)).batches(64)])
    statistics = LatentStore(str(whole)).statistics()
    assert statistics.count == len(values)
    torch.testing.assert_close(statistics.mean, values.mean(0), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(statistics.std, values.std(0, correction=0), rtol=1e-12, atol=0)
    assert verify(VerifyConfig(store=str(whole))).problems == []


def test_a_merge_killed_in_the_middle_ends_with_the_same_bytes(latents, whole, digests, start_job, tmp_path):
    stores = tuple(map(str, latents))
    process = start_job("merge", "--stores", *stores, "--output", str(tmp_path), "--num-workers", "1")
    while not list(tmp_path.glob("ledger/*/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.kill()
    process.wait()
    merged(latents, tmp_path, num_workers=2)
    assert digests(tmp_path) == digests(whole)
    assert merged(latents, tmp_path).worked_clips == 0
    assert digests(tmp_path) == digests(whole)
    with pytest.raises(RunRefusedError, match="stores"):
        merged(reversed(latents), tmp_path)


def test_clip_stores_are_merged_with_what_ended_while_they_were_planned(clips, tokenizer, whole, tmp_path):
    summary = merged(clips, tmp_path / "clips")
    counts = [open_any_store(Folder(str(store))).document["counts"] for store in clips]
    assert summary.planned == sum(each["planned"] for each in counts)
    assert (summary.stored, summary.rejected) == (sum(each["stored"] for each in counts), 1)
    plan = Plan.load(Folder(str(tmp_path / "clips")))
    assert plan.paths(PLAN_OUTCOMES_FILE) == [PLAN_OUTCOMES_FILE]
    assert verify(VerifyConfig(store=str(tmp_path / "clips"))).problems == []
    flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
    latents = tmp_path / "latents"
    encode(EncodeConfig(shards=str(tmp_path / "clips"), tokenizer=tokenizer, output=str(latents), **flags))
    assert sorted(rows_of(latents)[0]) == sorted(rows_of(whole)[0])


def test_a_clip_that_stands_in_two_stores_is_refused(latents, whole, tmp_path):
    with pytest.raises(RunRefusedError, match=r"3 clips would stand in it twice, such as .*astronaut"):
        merged([latents[0], whole], tmp_path)
    assert not (tmp_path / "plan").exists()


def test_stores_that_were_made_otherwise_are_refused_line_by_line(clips, latents, tokenizer, tmp_path):
    other = tmp_path / "other"
    encode(EncodeConfig(shards=str(clips[1]), tokenizer=tokenizer, output=str(other), logvar=True, num_workers=1))
    with pytest.raises(ValueError, match=r"latent\.columns: \['mean'\], now \['mean', 'logvar'\]"):
        merged([latents[0], other], tmp_path / "merged")
    with pytest.raises(ValueError, match="format: 'vitok-latents', now 'vitok-clips'"):
        merged([latents[0], clips[0]], tmp_path / "merged")
    with pytest.raises(ValueError, match="got 1, expected at least two"):
        merged(latents[:1], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("part", ["a latent", "the footer"])
def test_a_damaged_shard_stops_the_merge_by_name_and_is_not_copied(part, latents, tmp_path):
    from ray.exceptions import RayTaskError  # here: the embedded Ray must be set up before its first import

    damaged = tmp_path / "latents"
    shutil.copytree(latents[1], damaged)
    shard = max(damaged.glob("grid=*/shard-*"))
    row_group = pq.read_metadata(shard).row_group(0)
    latent = row_group.column(row_group.num_columns - 1)
    data = bytearray(shard.read_bytes())
    data[latent.data_page_offset + latent.total_compressed_size - 1 if part == "a latent" else -1] ^= 1
    found = hashlib.sha256(data).hexdigest()
    shard.write_bytes(data)
    with pytest.raises(RayTaskError if part == "a latent" else ValueError, match=shard.name):
        merged([latents[0], damaged], tmp_path / "merged")
    copied = (tmp_path / "merged").glob("grid=*/*")
    assert found not in {hashlib.sha256(path.read_bytes()).hexdigest() for path in copied}


def test_stores_on_s3_are_merged_and_grow_as_those_on_disk(
    s3, clips, latents, whole, tokenizer, digests, start_job, tmp_path
):
    remote = fsspec.filesystem("s3")
    for name, folder in (("a", latents[0]), ("b", latents[1]), ("clips", clips[1]), ("tokenizer", tokenizer)):
        remote.put(str(folder), f"{s3}/{name}", recursive=True)
    output, _ = start_job("merge", "--stores", f"{s3}/a", f"{s3}/b", "--output", f"{s3}/merged").communicate()
    remote.get(f"{s3}/merged", str(tmp_path / "merged"), recursive=True)
    assert digests(tmp_path / "merged") == digests(whole), output

    grown = tmp_path / "grown"
    shutil.copytree(latents[0], grown)
    flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
    encode(EncodeConfig(shards=str(clips[1]), tokenizer=tokenizer, output=str(grown), append=True, **flags))
    places = ("--shards", f"{s3}/clips", "--tokenizer", f"{s3}/tokenizer")
    given = ("--output", f"{s3}/a", "--append", "--shard-size", "2", "--batch-size", "2", "--num-workers", "1")
    output, _ = start_job("encode", *places, *given).communicate()
    remote.get(f"{s3}/a", str(tmp_path / "fetched"), recursive=True)
    assert digests(tmp_path / "fetched") == digests(grown), output
    process = start_job("why-stale", "--store", f"{s3}/a", *places)
    output, _ = process.communicate()
    assert (process.returncode, "nothing differs" in output) == (0, True), output
