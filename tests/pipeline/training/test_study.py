"""A study: its points are trainings, each its own; one that fails or is killed costs the others nothing."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.runs.clips import check_tubelet, clip_shapes
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.claim import claim
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow, Store
from pipeline.store.plan import RunRefusedError
from pipeline.training.config import DataFlags, LossFlags, OptimizerFlags, TrainConfig, WatchFlags
from pipeline.training.study import StudyConfig, StudyFailedError, study
from pipeline.training.study_point import GenerationFlags, check_scores
from pipeline.training.worker import _sides
from vitok.config import AutoEncoderConfig
from vitok.latents.store import LatentStore
from vitok.model.count import count
from vitok.networks.weights import FOLDER_VARIABLE, MissingWeightsError


def store(tubelet, **buckets):
    """A clip store of so many clips a bucket, without its files."""
    rows = [
        IndexRow(
            shard=shard,
            bucket=bucket,
            planned=stored,
            stored=stored,
            filtered=0,
            rejected=0,
            path="x",
            size_bytes=1,
            sha256="",
            outcomes_path=None,
            outcomes_sha256=None,
            record_sha256="",
        )
        for shard, (bucket, stored) in enumerate(buckets.items())
    ]
    return Store(folder=Folder("/clips"), document={"preprocessing": {"tubelet": tubelet}}, rows=rows)


@pytest.mark.parametrize("tubelet", ["4x16", "2x16", "4x8", "1x4", "2x1"])
def test_clips_divide_into_a_tubelet_that_divides_the_store_s(tubelet):
    check_tubelet(store("4x16"), tubelet, "the model")


@pytest.mark.parametrize("tubelet", ["8x16", "4x32", "3x16", "4x12", "8x8"])
def test_one_that_does_not_is_refused(tubelet):
    with pytest.raises(ValueError, match=f"for tubelets 4x16, the model has {tubelet}: .* or a multiple of it"):
        check_tubelet(store("4x16"), tubelet, "the model")


def test_the_size_of_clips_is_the_store_s_grid_times_its_own_tubelet():
    clips = store("4x16", **{"grid=2x4x6": 3, "grid=1x4x4": 5, "grid=4x9x9": 0})
    assert clip_shapes(clips) == {(8, 64, 96), (1, 64, 64)}
    config = TrainConfig(shards=("clips",), output="out")
    assert set(_sides(config, [clips, store("4x8", **{"grid=1x4x4": 5})])) == {64, 96, 32}


def config(clips, output, **others):
    return StudyConfig(
        shards=(str(clips),),
        output=str(output),
        variants=others.pop("variants", ("N-N/8", "N-N/16")),
        latent_channels=(4,),
        data=DataFlags(batch_size=4, augmentation="flip"),
        optimizer=OptimizerFlags(
            max_steps=others.pop("max_steps", 3), learning_rate=2.4e-2, precision="float32", seed=others.pop("seed", 0)
        ),
        loss=LossFlags(lpips_weight=0.0),
        watch=WatchFlags(
            validation=str(clips), log_every=1, checkpoint_every=1, validation_clips=others.pop("validation_clips", 256)
        ),
        **others,
    )


def generation(**others):
    """The smallest second half there is; its metric needs weights."""
    flags = {"generator_recipe": "laptop", "generator_steps": 2, "samples_per_class": 2, "sample_steps": 1}
    return GenerationFlags(**{**flags, "generation_metrics": ("fid_2015",), **others})


def test_points_are_the_product_of_the_axes():
    asked = config("clips", "/out", positions=("rope3d", "none"), seeds=(0, 3), seed=4)
    trainings = dict(asked.trainings())
    assert len(trainings) == 2 * 2 * 2
    one = trainings["N-N_1x8_c4_none_kl_s7"]
    assert (one.output, one.model.variant, one.optimizer.seed) == ("/out/points/N-N_1x8_c4_none_kl_s7", "N-N/8", 7)
    assert (one.model.positions, one.data, one.loss) == ("none", asked.data, asked.loss)
    assert (one.shards, one.watch.validation) == ((str(Path("clips").absolute()),), str(Path("clips").absolute()))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"variants": ()}, "--variants: got none"),
        ({"variants": ("N-N/8", "N-N/1x8")}, "got the point N-N_1x8_c4_rope3d_kl_s0 more than once"),
        ({"variants": ("N-Q/8",)}, "variant: got 'N-Q/8'"),
        ({"concurrency": 0}, "--concurrency: got 0"),
        ({"max_steps": 0}, "--max-steps: got 0"),
        (
            {"generation": GenerationFlags(generator_recipe="paper_sweep"), "bottlenecks": ("kl", "tanh")},
            "paper_sweep learns draws from posteriors, and those of --bottlenecks tanh have no variance",
        ),
    ],
)
def test_flags_that_make_no_study_are_refused(others, message):
    with pytest.raises(ValueError, match=message):
        config("clips", "out", **others)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"generator_recipe": "tabletop"}, "--generator-recipe: got 'tabletop', expected one of paper_image_256, "),
        ({"generator_steps": -1}, "--generator-steps: got -1"),
        ({"samples_per_class": 1}, "--samples-per-class: got 1, expected at least 2"),
        ({"sample_steps": 0}, "--sample-steps: got 0"),
    ],
)
def test_flags_that_make_no_generator_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        generation(**flags)


def test_generators_learn_one_store():
    asked = config("clips", "out", generation=generation())
    with pytest.raises(ValueError, match="--generator-recipe: got 2 stores of --shards, expected one"):
        replace(asked, shards=("clips", "others"))


def test_generators_learn_clips_as_they_are_stored():
    whole = store("1x16", **{"grid=1x2x2": 5})
    with pytest.raises(ValueError, match=r"those of /clips are \[\(1, 32, 32\)\].*, a step's \(1, 16, 16\)"):
        check_scores(generation(), [whole], (1, 16, 16))


def test_a_study_needs_held_out_clips():
    with pytest.raises(ValueError, match="--validation: got none"):
        StudyConfig(shards=("clips",), output="out")


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    prepare(
        PrepareConfig(
            input=tuple(str(path) for path in sorted(corpus.glob("*.png")) if path.stat().st_size),
            output=str(output),
            resolution=32,
            num_frames=1,
            tubelet="1x16",
            codec="raw",
        )
    )
    return output


@pytest.mark.cluster
def test_stores_that_do_not_fit_are_refused_before_any_work(clips, tmp_path):
    with pytest.raises(ValueError, match="for tubelets 1x16, the variant N-N/32 has 1x32"):
        study(config(clips, tmp_path / "study", variants=("N-N/32",)))
    cropped = DataFlags(batch_size=4, augmentation="random_crop", resolution=16)
    asked = config(clips, tmp_path / "study")
    with pytest.raises(ValueError, match=r"training sees \[\(1, 16, 16\)\].* holds \[\(1, 32, 32\)\]"):
        study(StudyConfig(shards=asked.shards, output=asked.output, watch=asked.watch, data=cropped, loss=asked.loss))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_what_could_not_be_scored_is_refused_before_any_work(clips, tmp_path, monkeypatch):
    asked = config(clips, tmp_path / "study", generation=generation(generation_metrics=("fvd",)))
    with pytest.raises(ValueError, match=r"fvd needs clips of at least \d+ frames, got clips of 1x32x32"):
        study(asked)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(MissingWeightsError, match="weights inception_2015: not in"):
        study(replace(asked, generation=generation()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_a_failed_point_loses_no_other_and_nothing_is_trained_twice(clips, digests, tmp_path):
    asked = config(clips, tmp_path, concurrency=2)
    name = "N-N_1x8_c4_rope3d_kl_s0"
    refusal = rf"1 of 2 points.*\n  {name}: RunRefusedError: .* is held by another run"
    with claim(Folder(str(tmp_path / "points" / name))), pytest.raises(StudyFailedError, match=refusal):
        study(asked)
    document = json.loads((tmp_path / "study.json").read_bytes())
    assert [point["tubelet"] for point in document["points"]] == ["1x16"]
    assert list(document["failed"]) == [name]

    whole = study(asked)
    assert whole.trained == 1
    assert [point.variant for point in whole.points] == ["N-N/1x8", "N-N/1x16"]
    assert [point.latent_size for point in whole.points] == [4 * 16, 4 * 4]
    for point in whole.points:
        counted = count(
            AutoEncoderConfig.from_name(point.variant, latent_channels=4), num_frames=1, height=32, width=32
        )
        assert point.encoder_parameters + point.decoder_parameters == counted.parameters.total
        assert (point.macs, point.grid) == (counted.macs.total, str(counted.grid))
        assert {"psnr", "ssim", "active_channels"} <= set(point.metrics)
    fine, coarse = whole.points
    assert whole.fits["psnr"].slope == pytest.approx((fine.metrics["psnr"] - coarse.metrics["psnr"]) / 2)
    assert (tmp_path / "study.html").exists()

    before = digests(tmp_path)
    assert study(asked).trained == 0
    assert digests(tmp_path) == before
    fewer = study(config(clips, tmp_path, variants=("N-N/16",)))
    assert (fewer.trained, fewer.points, fewer.fits) == (0, whole.points[1:], {})
    with pytest.raises(RunRefusedError, match="validation_clips: 256, now 2"):
        study(config(clips, tmp_path, validation_clips=2))


@pytest.mark.cluster
def test_generators_are_trained_on_points_that_are_there_and_none_twice(clips, digests, need_weights, tmp_path):
    need_weights("inception_2015")
    first = study(config(clips, tmp_path, variants=("N-N/16",)))
    tokenizer = digests(tmp_path / "points" / first.points[0].name / "tokenizer")

    asked = config(clips, tmp_path, generation=generation())
    whole = study(asked)
    assert whole.trained == 2
    (known,) = first.points
    fine, coarse = whole.points
    assert digests(tmp_path / "points" / coarse.name / "tokenizer") == tokenizer
    assert {name: coarse.metrics[name] for name in known.metrics} == known.metrics
    for point in whole.points:
        folder = tmp_path / "points" / point.name
        t, h, w = map(int, point.grid.split("x"))
        assert LatentStore(str(folder / "latents")).buckets == {(t, h, w): 4}
        scores = json.loads((folder / "samples" / "scores.json").read_bytes())["scores"]
        assert scores == {"fid_2015": point.metrics["generation/fid_2015"]}
        assert scores["fid_2015"] > 10
    document = json.loads((tmp_path / "study.json").read_bytes())
    assert [point["metrics"]["generation/fid_2015"] for point in document["points"]] == [
        point.metrics["generation/fid_2015"] for point in (fine, coarse)
    ]
    assert document["protocol"]["generation"]["recipe"]["max_steps"] == 2
    assert "gFID (2015)" in (tmp_path / "study.html").read_text(encoding="utf-8")

    before = digests(tmp_path)
    assert study(asked).trained == 0
    assert digests(tmp_path) == before
    # A kill before the last of its files: what is there is kept, what is missing is made again.
    (tmp_path / "points" / fine.name / "samples" / "scores.json").unlink()
    assert study(asked).trained == 1
    assert {name: digest for name, digest in digests(tmp_path).items() if "/runs/" not in name} == {
        name: digest for name, digest in before.items() if "/runs/" not in name
    }
    with pytest.raises(RunRefusedError, match="sample_steps: 1, now 2"):
        study(config(clips, tmp_path, generation=generation(sample_steps=2)))


@pytest.mark.cluster
def test_a_killed_study_goes_on_where_its_points_were(clips, start_job, tmp_path):
    process = start_job(
        "study",
        *("--shards", str(clips), "--validation", str(clips), "--output", str(tmp_path), "--variants", "N-N/16"),
        *("--latent-channels", "4", "--batch-size", "4", "--augmentation", "flip", "--max-steps", "24"),
        *("--learning-rate", "2.4e-2", "--lpips-weight", "0", "--precision", "float32"),
        *("--log-every", "1", "--checkpoint-every", "1"),
    )
    point = tmp_path / "points" / "N-N_1x16_c4_rope3d_kl_s0"
    while not list(point.glob("checkpoints/*/state.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.wait()
    while (point / "claim.json").exists() and held(point):  # by a process that Ray ends when it misses the driver
        time.sleep(0.1)
    assert not (point / "tokenizer").exists(), "it ended before the kill, which then proves nothing"

    assert study(config(clips, tmp_path, variants=("N-N/16",), max_steps=24)).trained == 1
    records = [json.loads(path.read_bytes()) for path in point.glob("runs/*/record.json")]
    assert [record["counts"]["resumed_steps"] >= 1 for record in records] == [True]


def held(folder):
    try:
        with claim(Folder(str(folder))):
            return False
    except RunRefusedError:
        return True
