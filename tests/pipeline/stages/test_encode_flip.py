"""The mirrored view of a clip is the view of the mirrored clip, and changes nothing of the other columns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.runs.encode import EncodeConfig
from pipeline.runs.encode import encode as run_encode
from pipeline.store.clipshard import ClipShardWriter, PixelCodec, code_clip
from pipeline.store.files import FileRecord, Folder, digest_stream
from pipeline.store.index import close_store
from pipeline.store.ledger import commit_shard
from pipeline.store.plan import Plan, PlanCounts, RunRefusedError
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import CLIP_STORE_FORMAT
from tests.pipeline.stages.latent_shards import CHANNELS, GRID, MIRRORED, assert_columns_equal, read_outcomes_of
from vitok.latents.store import LatentStore
from vitok.pixels import from_uint8


@pytest.fixture
def write_mirrored(tmp_path, make_clip):
    """Writes clips by number, left and right exchanged, as `write_clips` writes them as they are."""

    def write(name, numbers):
        with Folder(str(tmp_path / "clips")).stage(f"grid=2x2x2/{name}.tar") as staged:
            writer = ClipShardWriter(staged.stream)
            for number in numbers:
                clip = make_clip(number)
                pixels = np.ascontiguousarray(np.flip(clip.pixels, axis=2))
                writer.write(code_clip(replace(clip, pixels=pixels), PixelCodec(name="raw")))
            writer.close()
            return staged.commit().path

    return write


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mirrored_view_is_the_view_of_the_mirrored_clips(encode, write_clips, write_mirrored, dtype):
    latent = {"dtype": dtype, "columns": MIRRORED}
    _, _, clips = encode([write_clips("a", range(6))], 6, name="clips", **latent)
    _, _, mirrored = encode([write_mirrored("b", range(6))], 6, name="mirrored", **latent)
    assert_columns_equal((clips, ["mean_flip", "logvar_flip"]), (mirrored, ["mean", "logvar"]))
    assert_columns_equal((mirrored, ["mean_flip", "logvar_flip"]), (clips, ["mean", "logvar"]))
    assert all(not torch.equal(found["mean"], found["mean_flip"]) for found in clips.values())
    # Not the latent mirrored: tokens see their place and what is inside them.
    assert all(not torch.equal(found["mean"].flip(2), found["mean_flip"]) for found in clips.values())


def test_the_mirrored_view_is_the_models_posterior_of_flipped_pixels(encode, write_clips, make_clip, make_model):
    _, _, found = encode([write_clips("a", range(6))], 6, dtype="float32", columns=MIRRORED)
    pixels = torch.from_numpy(np.stack([make_clip(number).pixels for number in range(6)]))
    with torch.inference_mode():
        posterior = make_model().eval().encode(from_uint8(pixels).flip(-1))
    for number in range(6):
        torch.testing.assert_close(found[f"clip-{number}"]["mean_flip"], posterior.mean[number])
        torch.testing.assert_close(found[f"clip-{number}"]["logvar_flip"], posterior.logvar[number])


def test_the_mirrored_view_changes_neither_the_other_columns_nor_the_normalisation(encode, write_clips):
    source = write_clips("a", range(7))
    plain_report, _, plain = encode([source], 7, name="plain", columns=("mean", "logvar"))
    report, _, both = encode([source], 7, name="both", columns=MIRRORED)
    assert_columns_equal((both, ["mean", "logvar"]), (plain, ["mean", "logvar"]))
    assert report.record.sums == plain_report.record.sums
    _, _, means = encode([source], 7, name="means", columns=("mean", "mean_flip"))
    assert_columns_equal((means, ["mean", "mean_flip"]), (both, ["mean", "mean_flip"]))
    assert {tuple(latents) for latents in means.values()} == {("mean", "mean_flip")}


def test_a_mirrored_latent_does_not_depend_on_the_clips_that_fill_its_batch(encode, write_clips):
    latent = {"dtype": "float32", "columns": ("mean", "mean_flip")}
    _, _, first = encode([write_clips("a", [7, 0, 8])], 3, name="first", **latent)
    _, _, alone = encode([write_clips("c", [9, 0])], 2, name="alone", **latent)
    assert torch.equal(first["clip-0"]["mean_flip"], alone["clip-0"]["mean_flip"])


def test_a_clip_whose_mirrored_view_overflows_is_rejected(encode, write_clips, edited_tokenizer):
    source, latent = write_clips("a", range(12)), {"columns": ("mean", "mean_flip")}
    _, _, exact = encode([source], 12, name="exact", dtype="float32", **latent)
    peaks = {key: [float(values.abs().max()) for values in latents.values()] for key, latents in exact.items()}
    ratios = {key: mirrored / plain for key, (plain, mirrored) in peaks.items()}
    key = max(ratios, key=lambda key: ratios[key])

    def put_the_limit_between(model):
        model.encoder_to_code.weight.mul_(65504 / (peaks[key][0] * peaks[key][1]) ** 0.5)

    tokenizer = edited_tokenizer(put_the_limit_between)
    _, _, scaled = encode([source], 12, name="scaled", tokenizer=tokenizer, dtype="float32", **latent)
    lost = {
        key: [name for name, values in latents.items() if not values.half().isfinite().all()]
        for key, latents in scaled.items()
    }
    assert lost[key] == ["mean_flip"]
    report, output, found = encode([source], 12, tokenizer=tokenizer, **latent)
    assert list(found) == [key for key, names in lost.items() if not names]
    assert len(found) > 0
    messages = {row["key"]: row["message"] for row in read_outcomes_of(output, report)}
    assert messages == {key: f"NaN or Inf in {', '.join(names)} as float16" for key, names in lost.items() if names}


@pytest.fixture
def clip_store(tmp_path, write_clips):
    """A finished clip store of five clips in two shards; its path."""
    folder = Folder(str(tmp_path / "clips"))
    shards = [PlannedShard(index=index, bucket="grid=2x2x2", num_clips=count) for index, count in enumerate([3, 2])]
    counts = PlanCounts(media=2, clips=5)
    plan = Plan.save(folder, job="prepare", identity={}, counts=counts, shards=shards)
    records = []
    for shard, numbers in zip(shards, (range(3), range(3, 5)), strict=True):
        path = write_clips(f"shard-{shard.index:08d}", numbers)
        with folder.open(path) as stream:
            size_bytes, sha256 = digest_stream(stream)
        file = FileRecord(path=path, size_bytes=size_bytes, sha256=sha256)
        records.append(commit_shard(folder, shard, file=file, stored=shard.num_clips, outcomes=[], sums={}))
    details = {"preprocessing": {"tubelet": "2x8"}, "columns": {}}
    close_store(folder, plan, records, format_name=CLIP_STORE_FORMAT, details=details)
    return folder.url


@pytest.mark.cluster
def test_a_store_says_which_views_it_holds_and_refuses_to_go_on_with_others(
    ray_here, tmp_path, clip_store, tokenizer_url
):
    output = str(tmp_path / "latents")
    flags = {"shards": clip_store, "tokenizer": tokenizer_url, "output": output, "num_workers": 1}
    summary = run_encode(EncodeConfig(flip=True, logvar=True, **flags))
    assert (summary.planned, summary.stored) == (5, 5)
    store = LatentStore(output)
    assert store.document["latent"]["columns"] == list(MIRRORED) == list(store.latent_columns)
    batch = store.take([4, 0])
    assert batch.columns["key"] == ["clip-4", "clip-0"]
    assert {name: values.shape for name, values in batch.latents.items()} == dict.fromkeys(
        MIRRORED, (2, *GRID, CHANNELS)
    )
    means = torch.cat([whole.latents["mean"] for whole in store.batches(5)]).double().reshape(-1, CHANNELS)
    torch.testing.assert_close(store.statistics().mean, means.mean(dim=0))
    with pytest.raises(RunRefusedError, match=r"latent\.columns: .*'mean_flip'"):
        run_encode(EncodeConfig(logvar=True, **flags))
    with pytest.raises(RunRefusedError, match=r"inference\.compile: .*now True"):
        run_encode(EncodeConfig(flip=True, logvar=True, compile=True, **flags))
