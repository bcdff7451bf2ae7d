"""Clip shards become latent shards: the same bytes each time, no clip under another's influence, no NaN stored."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.media.reject import RejectClip
from pipeline.runs.encode import EncodeConfig
from pipeline.runs.encode import encode as run_encode
from pipeline.stages.clip_source import StoredClips
from pipeline.stages.encode import EncodeShard, LatentFormat
from pipeline.stages.stage import reject_clip
from pipeline.stages.tokenizer import Inference
from pipeline.store.clipshard import ClipShardWriter, PixelCodec, code_clip
from pipeline.store.files import FileRecord, Folder, digest_stream
from pipeline.store.index import close_store
from pipeline.store.ledger import commit_shard, read_ledger
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts, RunRefusedError
from pipeline.store.planned_shards import PlannedShard
from schemas.latent import latent_columns
from schemas.metadata import CLIP_STORE_FORMAT
from schemas.outcome import Reason, Stage
from vitok.config import AutoEncoderConfig
from vitok.latents.shards import read_rows
from vitok.latents.store import LatentStore
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint
from vitok.pixels import from_uint8

GRID = (2, 2, 2)
CHANNELS = 4
MIRRORED = latent_columns(logvar=True, flip=True)
CASES = [(form, dtype) for form in ("parquet", "webdataset") for dtype in ("float16", "bfloat16", "float32")]


@pytest.fixture
def encode(tmp_path, tokenizer_url):
    """Encodes clip shards as one shard: the report, the folder, and latents by key and column."""

    def encode(
        sources,
        num_clips,
        *,
        name="latents",
        tokenizer=tokenizer_url,
        batch_size=4,
        through=lambda clips: clips,
        **latent,
    ):
        output = Folder(str(tmp_path / name))
        stage = EncodeShard(
            source=through(StoredClips(Folder(str(tmp_path / "clips")))),
            output=output,
            tokenizer_url=tokenizer,
            inference=Inference(batch_size=batch_size),
            channels=CHANNELS,
            latent=LatentFormat(**latent),
        )
        shard = PlannedShard(index=0, bucket="grid=2x2x2", num_clips=num_clips, sources=tuple(sources))
        report = stage(shard)
        found = {}
        if report.record.file is not None:
            settings = LatentFormat(**latent)
            with output.open(report.record.file.path) as stream:
                for rows in read_rows(
                    stream,
                    path=report.record.file.path,
                    shape=(*GRID, CHANNELS),
                    dtype=settings.dtype,
                    latent_columns=settings.columns,
                ):
                    for row, key in enumerate(rows.columns["key"]):
                        found[key] = {column: values[row] for column, values in rows.latents.items()}
        return report, output, found

    return encode


def contents(folder):
    return {path: folder.read_bytes(path) for path in folder.find()}


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_a_shard_that_is_committed_twice_is_the_same_bytes(encode, write_clips, form, dtype):
    sources = [write_clips("a", [0, 1, 2]), write_clips("b", [3, 4, 5])]
    latent = {"format": form, "dtype": dtype, "columns": MIRRORED}
    report, output, _ = encode(sources, 6, **latent)
    before = contents(output)
    again, output, _ = encode(sources, 6, **latent)
    assert contents(output) == before
    assert read_ledger(output) == {0: again.record} == {0: report.record}


def test_latents_are_the_models_posterior_of_the_pixels(encode, write_clips, make_clip, make_model):
    _, _, found = encode([write_clips("a", range(6))], 6, dtype="float32", columns=("mean", "logvar"))
    assert list(found) == [f"clip-{number}" for number in range(6)]
    pixels = torch.from_numpy(np.stack([make_clip(number).pixels for number in range(6)]))
    with torch.inference_mode():
        posterior = make_model().eval().encode(from_uint8(pixels))
    for number in range(6):
        torch.testing.assert_close(found[f"clip-{number}"]["mean"], posterior.mean[number])
        torch.testing.assert_close(found[f"clip-{number}"]["logvar"], posterior.logvar[number])


def test_a_latent_does_not_depend_on_the_clips_that_fill_its_batch(encode, write_clips):
    _, _, first = encode([write_clips("a", [7, 0, 8])], 3, name="first", dtype="float32")
    _, _, other = encode([write_clips("b", [1, 0, 2, 3])], 4, name="other", dtype="float32")
    _, _, alone = encode([write_clips("c", [9, 0])], 2, name="alone", dtype="float32")
    assert torch.equal(first["clip-0"]["mean"], other["clip-0"]["mean"])
    assert torch.equal(first["clip-0"]["mean"], alone["clip-0"]["mean"])


def test_batches_run_across_the_clip_shards_of_a_shard(encode, write_clips):
    _, whole, _ = encode([write_clips("whole", range(6))], 6, name="whole")
    _, parts, _ = encode([write_clips("one", [0]), write_clips("two", range(1, 6))], 6, name="parts")
    assert contents(whole) == contents(parts)


def test_half_precision_is_the_rounding_of_the_float32_latent(encode, write_clips):
    source = write_clips("a", range(3))
    _, _, exact = encode([source], 3, name="exact", dtype="float32")
    for dtype in ("float16", "bfloat16"):
        _, _, rounded = encode([source], 3, name=dtype, dtype=dtype)
        for key, latents in exact.items():
            assert torch.equal(rounded[key]["mean"], latents["mean"].to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_moments_are_those_of_the_values_as_stored(encode, write_clips, dtype):
    report, _, found = encode([write_clips("a", range(7))], 7, dtype=dtype)
    values = torch.stack([latents["mean"] for latents in found.values()]).double().reshape(-1, CHANNELS).numpy()
    moments = ChannelMoments.from_json(report.record.sums["moments"])
    assert moments.count == 7 * 8
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_weights_that_are_not_finite_reject_every_clip_and_write_no_file(encode, write_clips, edited_tokenizer, form):
    def spoil(model):
        model.encoder_to_code.weight[0, 0] = float("nan")

    report, output, _ = encode([write_clips("a", range(5))], 5, tokenizer=edited_tokenizer(spoil), format=form)
    record = report.record
    assert (record.stored, record.rejected, record.file) == (0, 5, None)
    assert record.reasons == {"nonfinite_latent": 5}
    assert output.find() == ["ledger/00000/00000000.json", "outcomes/grid=2x2x2/shard-00000000.parquet"]
    rows = pq.read_table(output.open(record.outcomes.path)).to_pylist()
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in range(5)]
    assert {(row["stage"], row["reason"], row["transient"]) for row in rows} == {("encode", "nonfinite_latent", False)}
    moments = ChannelMoments.from_json(record.sums["moments"])
    assert (moments.count, moments.nan_count, moments.inf_count) == (0, 5 * 8, 0)


def overflow(model):
    model.encoder_to_code.weight.mul_(1e8)


def test_a_latent_beyond_float16_is_a_reject(encode, write_clips, edited_tokenizer):
    report, _, _ = encode([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(overflow), dtype="float16")
    assert (report.record.stored, report.record.rejected) == (0, 3)
    moments = ChannelMoments.from_json(report.record.sums["moments"])
    assert moments.inf_count > 0
    assert moments.nan_count == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_same_latent_is_stored_where_its_dtype_holds_it(encode, write_clips, edited_tokenizer, dtype):
    report, _, found = encode([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(overflow), dtype=dtype)
    assert report.record.stored == 3
    assert max(float(latents["mean"].abs().max()) for latents in found.values()) > 65504


def test_a_clip_that_overflows_is_rejected_and_its_batch_is_kept(encode, write_clips, edited_tokenizer):
    def spoil_some(model):
        model.encoder_to_code.weight.mul_(3e4)

    report, _, found = encode([write_clips("a", range(12))], 12, tokenizer=edited_tokenizer(spoil_some))
    exact, _, whole = encode(
        [write_clips("a", range(12))], 12, tokenizer=edited_tokenizer(spoil_some), dtype="float32", name="exact"
    )
    fits = [key for key, latents in whole.items() if latents["mean"].half().isfinite().all()]
    assert exact.record.stored == 12
    assert 0 < len(fits) < 12
    assert list(found) == fits
    assert report.record.rejected == 12 - len(fits)


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


def assert_columns_equal(found, expected):
    """Two sides of (latents by key, names of columns): equal to the bit, column by column."""
    (found, found_names), (expected, expected_names) = found, expected
    assert list(found) == list(expected)
    for key in found:
        for name, other in zip(found_names, expected_names, strict=True):
            assert torch.equal(found[key][name], expected[key][other]), (key, name, other)


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


def read_outcomes_of(output, report):
    with output.open(report.record.outcomes.path) as stream:
        return pq.ParquetFile(stream).read(use_threads=False).to_pylist()


def losing(numbers):
    """Makes a source of one that loses some of its clips."""

    def make(source):
        def clips(shard):
            for number, clip in enumerate(source(shard)):
                error = RejectClip(Reason.CORRUPT, "cut off")
                yield reject_clip(error, clip.metadata, Stage.DECODE) if number in numbers else clip

        return clips

    return make


@pytest.fixture(scope="module")
def placed_tokenizer(tmp_path_factory):
    """Folder of a model large enough for its kernels to treat the places of a batch of three unlike, by a last bit."""
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("placed"))
    save_checkpoint(folder, AutoEncoder(AutoEncoderConfig.from_name("S-N/2x8", latent_channels=CHANNELS)))
    return folder


@pytest.mark.parametrize("lost", [{0}, {2, 3}, {3, 4, 5}, {8}, {1, 2, 3, 4, 5, 6, 8}], ids=str)
def test_clips_that_are_lost_leave_the_others_their_bits(encode, write_clips, placed_tokenizer, lost):
    source = write_clips("a", range(9))
    settings = {"tokenizer": placed_tokenizer, "batch_size": 3, "dtype": "float32", "columns": MIRRORED}
    _, _, whole = encode([source], 9, name="whole", **settings)
    report, output, found = encode([source], 9, through=losing(lost), **settings)
    assert list(found) == [f"clip-{number}" for number in range(9) if number not in lost]
    assert_columns_equal((found, MIRRORED), ({key: whole[key] for key in found}, MIRRORED))
    assert (report.record.stored, report.record.rejected) == (9 - len(lost), len(lost))
    rows = read_outcomes_of(output, report)
    assert [(row["key"], row["stage"]) for row in rows] == [(f"clip-{number}", "decode") for number in sorted(lost)]
    assert ChannelMoments.from_json(report.record.sums["moments"]).count == 8 * len(found)


def test_a_shard_of_which_all_is_lost_has_no_file(encode, write_clips):
    report, _, found = encode([write_clips("a", range(5))], 5, through=losing(range(5)))
    assert (report.record.stored, report.record.rejected, report.record.file, found) == (0, 5, None, {})


def test_outcomes_stand_in_the_order_of_the_plan_wherever_their_clips_ended(encode, write_clips, edited_tokenizer):
    def spoil(model):
        model.encoder_to_code.weight[0, 0] = float("nan")

    report, output, _ = encode(
        [write_clips("a", range(5))], 5, tokenizer=edited_tokenizer(spoil), through=losing({1, 4})
    )
    rows = read_outcomes_of(output, report)
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in range(5)]
    assert [row["stage"] for row in rows] == ["encode", "decode", "encode", "encode", "decode"]


def test_a_source_that_lost_a_clip_is_not_committed(encode, write_clips, tmp_path):
    with pytest.raises(ValueError, match="planned 4 != stored 3"):
        encode([write_clips("a", range(3))], 4)
    assert read_ledger(Folder(str(tmp_path / "latents"))) == {}


def test_a_report_says_where_the_time_went_and_counts_the_weights_once(tmp_path, tokenizer_url, write_clips):
    stage = EncodeShard(
        source=StoredClips(Folder(str(tmp_path / "clips"))),
        output=Folder(str(tmp_path / "latents")),
        tokenizer_url=tokenizer_url,
        inference=Inference(),
        channels=CHANNELS,
        latent=LatentFormat(),
    )
    sources = (write_clips("a", range(2)),)
    first, second = (
        stage(PlannedShard(index=index, bucket="grid=2x2x2", num_clips=2, sources=sources)) for index in range(2)
    )
    assert set(first.seconds) == {"weights", "decode", "encode", "write", "commit"}
    assert set(second.seconds) == {"decode", "encode", "write", "commit"}


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"threads": 0}])
def test_inference_needs_at_least_one_of_each(setting):
    with pytest.raises(ValueError, match="must be at least 1"):
        Inference(**setting)


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
