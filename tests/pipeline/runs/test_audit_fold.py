"""Folds of an audit's rows equal those over all rows at once, however the rows lie in shards."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.runs.audit_fold import (
    OTHER_SLICES,
    feature_moments,
    fold_rows,
    inception_state,
)
from pipeline.runs.audit_record import clips_per_second
from pipeline.runs.audit_sums import AuditSums
from pipeline.runs.audit_values import Originals, histogram_edges, unfit_clips, values_of
from pipeline.stages.latent_health import LatentSums
from pipeline.store.documents import write_json
from pipeline.store.files import Folder
from pipeline.store.index import close_store, open_store
from pipeline.store.ledger import commit_shard
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.tables import write_table
from schemas.audit import audit_schema
from schemas.metadata import AUDIT_FORMAT
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.inception_score import InceptionScoreState

METRICS = ("psnr", "lpips")
CLIPS = 90
LABELS = ("cat", "dog", None)


@pytest.fixture(scope="module")
def rows():
    """Of an audit with numbers, I3D's logits and class predictions."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(CLIPS):
        made.append(
            {
                "key": f"clip-{number:03d}",
                "media_uri": f"/media/{number % 4}/{number}.png",
                "media_sha256": f"{number:064x}",
                "clip_index": 0,
                "num_frames": 1,
                "height": 16,
                "width": 16,
                "source_height": 16,
                "source_width": 16,
                "orientation": 1,
                "pixel_aspect": 1.0,
                "color": "srgb",
                "interlaced": False,
                **dict.fromkeys(("crop_left", "crop_top", "crop_right", "crop_bottom"), 0.0),
                "label": LABELS[number % 3],
                "score": number % 7,
                "size_bytes": 100 + number,
                "psnr": float(generator.normal(25, 4)),
                "lpips": float(generator.uniform(0, 1)),
                "i3d": generator.normal(size=400).astype(np.float32).tobytes(),
                "inception_2015_logits": generator.normal(size=1008).astype(np.float32).tobytes(),
            }
        )
    return made


@pytest.fixture
def store(tmp_path):
    """Writes rows as a finished audit in shards of some sizes; buckets alternate."""

    def write(rows, sizes, name="audit"):
        folder = Folder(str(tmp_path / name))
        features = {"i3d": (1, 400), "inception_2015_logits": (1, 1008)}
        schema = audit_schema(passed={"score": "int64"}, metrics=METRICS, features=features)
        ends = np.cumsum(sizes)
        assert ends[-1] == len(rows)
        shards, records = [], []
        for index, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            part = rows[end - size : end]
            shard = PlannedShard(index=index, bucket=f"grid=1x2x{2 + index % 2}", num_clips=size)
            file = write_table(folder, shard.name + ".parquet", pa.Table.from_pylist(part, schema=schema))
            sums = {
                "content": f"{sum(int(row['media_sha256'], 16) for row in part):064x}",
                "size_bytes": sum(row["size_bytes"] for row in part),
                "metrics": {
                    metric: {
                        "clips": size,
                        "sum": math.fsum(values := [row[metric] for row in part]),
                        "min": min(values),
                        "max": max(values),
                    }
                    for metric in METRICS
                },
                "latents": LatentSums.of(
                    np.frombuffer(b"".join(row["i3d"] for row in part), np.float32).reshape(-1, 8), None
                ).to_json(),
            }
            shards.append(shard)
            records.append(commit_shard(folder, shard, file=file, stored=size, outcomes=[], sums=sums))
        counts = PlanCounts(media=0, clips=len(rows))
        plan = Plan.save(folder, job="audit", identity={}, counts=counts, shards=shards)
        close_store(folder, plan, records, format_name=AUDIT_FORMAT, details={}, sums=AuditSums())
        return open_store(folder, format_name=AUDIT_FORMAT)

    return write


def folded(store, **changes):
    options = {"slices": ("label", "source", "bucket", "score"), "resamples": 500, "seed": 0, "keep": 10}
    return fold_rows(store, METRICS, edges=histogram_edges([store]), **options | changes)


def vectors(rows, name, width):
    return np.frombuffer(b"".join(row[name] for row in rows), np.float32).reshape(-1, width)


SPLITS = [(CLIPS,), (1, 80, 9), (10,) * 9]


@pytest.mark.parametrize("sizes", SPLITS)
def test_values_are_those_of_all_rows_at_once(store, rows, sizes):
    other = [row | {"i3d": (np.frombuffer(row["i3d"], np.float32) * 1.5).tobytes()} for row in rows]
    reference, candidate = store(rows, sizes, "reference"), store(other, sizes)
    metrics = (*METRICS, "fvd", "inception_score_2015")
    values, missing = values_of(candidate, metrics, Originals(reference))
    sets = [vectors(part, "i3d", 400) for part in (rows, other)]
    assert missing == {}
    assert values["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]), rel=1e-14)
    assert values["fvd"] == pytest.approx(frechet_distance(*map(FeatureMoments.of, sets)), rel=1e-9)
    score = InceptionScoreState.of(vectors(rows, "inception_2015_logits", 1008)).score()
    assert values["inception_score_2015"] == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize("sizes", SPLITS)
def test_the_documents_sums_do_not_hang_on_the_shards(store, rows, sizes):
    audit = store(rows, sizes).document["audit"]
    assert audit["size_bytes"] == sum(row["size_bytes"] for row in rows)
    assert audit["content"] == f"{sum(range(CLIPS)):064x}"
    assert audit["metrics"]["all"]["psnr"]["mean"] == math.fsum(row["psnr"] for row in rows) / CLIPS
    by_bucket = audit["metrics"]["buckets"].values()
    assert sum(bucket["psnr"]["clips"] for bucket in by_bucket) == CLIPS
    tokens = vectors(rows, "i3d", 8).astype(np.float64)
    health = audit["latents"]
    np.testing.assert_allclose(health["std"], tokens.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(health["correlation"], np.corrcoef(tokens.T), rtol=1e-9, atol=1e-12)
    assert health["dead"] == []


def test_slices_part_the_whole(store, rows):
    slices = folded(store(rows, SPLITS[1])).slices
    for parts in slices.values():
        assert sum(part.clips for part in parts.values()) == CLIPS
        for metric in METRICS:
            total = math.fsum(part.sums[metric] for part in parts.values())
            assert total == pytest.approx(math.fsum(row[metric] for row in rows), rel=1e-12)
    assert {name: part.clips for name, part in slices["label"].items()} == {"cat": 30, "dog": 30, "(none)": 30}
    assert sorted(slices["source"]) == [f"/media/{number}" for number in range(4)]
    assert {name: part.clips for name, part in slices["bucket"].items()} == {"grid=1x2x2": 10, "grid=1x2x3": 80}
    assert sorted(slices["score"]) == [str(number) for number in range(7)]
    cats = [row["psnr"] for row in rows if row["label"] == "cat"]
    assert slices["label"]["cat"].sums["psnr"] / 30 == pytest.approx(np.mean(cats), rel=1e-12)


def test_values_beyond_the_most_share_one_slice(store, rows):
    parts = folded(store(rows, SPLITS[0]), slices=("key",), max_slices=5).slices["key"]
    assert len(parts) == 6
    assert parts[OTHER_SLICES].clips == CLIPS - 5


def test_histograms_hold_every_clip(store, rows):
    opened = store(rows, SPLITS[2])
    edges = histogram_edges([opened])
    for metric, counts in folded(opened).histograms.items():
        expected, _ = np.histogram([row[metric] for row in rows], bins=edges[metric])
        assert counts == expected.tolist()
        assert sum(counts) == CLIPS


@pytest.mark.parametrize("other", [1.0, 1.0 - 2**-53, 1.0 - 2**-40])
def test_values_that_are_all_but_equal_have_a_histogram(store, rows, other):
    alike = [row | {"psnr": other if number else 1.0} for number, row in enumerate(rows)]
    opened = store(alike, SPLITS[0])
    (edges, counts) = histogram_edges([opened])["psnr"], folded(opened).histograms["psnr"]
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= other <= 1.0 <= edges[-1]
    assert (len(counts), sum(counts)) == (40, CLIPS)


def test_a_run_that_failed_tells_no_rate(tmp_path):
    folder = Folder(str(tmp_path))
    ended = {"counts": {"worked_clips": 30}, "worker_seconds": {"reconstruct": 2.0, "measure": 9.0}, "error": None}
    failed = {"counts": {"workers": 1}, "worker_seconds": {"reconstruct": 50.0}, "error": "Stopped"}
    write_json(folder, "runs/b/record.json", failed)
    assert clips_per_second(folder) is None
    write_json(folder, "runs/a/record.json", ended)
    assert clips_per_second(folder) == 15.0


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("keep", [0, 1, 5, 10, 1000])
def test_the_worst_and_the_best_are_kept(store, rows, sizes, keep):
    found = [clip.key for clip in folded(store(rows, sizes), keep=keep).ranked]
    best_first = [row["key"] for row in sorted(rows, key=lambda row: -row["psnr"])]
    assert found == (best_first if keep > CLIPS else best_first[: keep // 2] + best_first[CLIPS - (keep + 1) // 2 :])


def test_intervals_hold_the_mean_and_are_as_wide_as_its_spread(store, rows):
    found = folded(store(rows, SPLITS[0]), resamples=2000).intervals
    for metric in METRICS:
        values = np.array([row[metric] for row in rows])
        low, high = found[metric]
        width = 2 * 1.96 * values.std() / math.sqrt(CLIPS)
        assert low < values.mean() < high
        assert high - low == pytest.approx(width, rel=0.15)


def test_intervals_are_drawn_from_the_seed(store, rows):
    opened = store(rows, SPLITS[1])
    assert folded(opened).intervals == folded(opened).intervals
    assert folded(opened, seed=1).intervals != folded(opened).intervals
    assert folded(opened, resamples=0).intervals == {}


def test_a_store_without_clips_has_no_values(tmp_path):
    folder = Folder(str(tmp_path))
    plan = Plan.save(folder, job="audit", identity={}, counts=PlanCounts(media=0, clips=0), shards=[])
    close_store(folder, plan, [], format_name=AUDIT_FORMAT, details={}, sums=AuditSums())
    empty = open_store(folder, format_name=AUDIT_FORMAT)
    values, missing = values_of(empty, ("psnr", "fvd", "inception_score_2015"), Originals(empty))
    assert values == {}
    assert missing["fvd"] == "needs at least 2 samples on either side, got 0 and 0"
    assert folded(empty).ranked == []
    assert feature_moments(empty, "i3d").count == inception_state(empty, "inception_2015_logits").count == 0


def test_clips_that_a_metric_cannot_take_are_told():
    clips = {(1, 256, 256): 30, (16, 8, 256): 12}
    assert unfit_clips(("psnr",), clips) == {}
    assert unfit_clips(("ssim", "fvd"), clips) == {
        "ssim": "needs frames of at least 11x11 pixels; left out are 12 of 42 clips: 12 of 16x8x256",
        "fvd": "needs clips of at least 9 frames; left out are 30 of 42 clips: 30 of 1x256x256",
    }
