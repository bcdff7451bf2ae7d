"""Media to latents without clip shards in between: the latents of both ways are the same, and so are the guarantees."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.runs.clip_flags import ClipFlags, InputFlags
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.planned import TooManyRejectsError
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.retry import RetryConfig, retry_rejects
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.stages.protocol import Filters
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger, read_outcomes
from pipeline.store.plan import RunRefusedError
from schemas.metadata import PLAN_OUTCOMES_FILE

pytestmark = pytest.mark.cluster

SHAPE = {"resolution": 32, "num_frames": 4, "fps": "8"}
FLAGS = {"shard_size": 4, "batch_size": 4, "num_workers": 1}
VIEWS = {"logvar": True, "flip": True}
CLIPS = 26  # six photographs, and twenty clips of the video
SHARDS = 7  # two of photographs, one of them with a truncated and an empty one, and five of video


def one_pass(media, tokenizer, output, *, clips=None, **changes):
    config = EncodeConfig(
        input=(str(media),),
        tokenizer=tokenizer,
        output=str(output),
        clips=clips or ClipFlags(**SHAPE),
        **FLAGS | changes,
    )
    return encode(config)


def two_steps(media, tokenizer, output, *, inputs=None, **changes):
    """The same through clip shards; `output` and its neighbour, the clip store."""
    clips = f"{output}-clips"
    flags = {**SHAPE, "inputs": inputs or InputFlags(), "shard_size": FLAGS["shard_size"], "num_workers": 1}
    prepare(PrepareConfig(input=(str(media),), output=clips, tubelet="2x8", codec="png", **flags))
    encode(EncodeConfig(shards=clips, tokenizer=tokenizer, output=str(output), **FLAGS | changes))
    return Path(clips)


def rows(store):
    """Each clip by bucket and key: its columns, and its latents as bytes."""
    files = sorted(Path(store).glob("grid=*/*.parquet"))
    found = [(path.parent.name, row) for path in files for row in pq.ParquetFile(path).read().to_pylist()]
    named = {(bucket, row["key"]): row for bucket, row in found}
    assert len(named) == len(found) == document(store)["counts"]["stored"]
    return named


def document(store):
    return json.loads((Path(store) / "store.json").read_bytes())


def ended(store):
    """Stage, outcome and reason of every clip that was not stored, by the name of its media."""
    folder = Folder(str(store))
    paths = [record.outcomes.path for record in read_ledger(folder).values() if record.outcomes is not None]
    paths += [PLAN_OUTCOMES_FILE] if folder.exists(PLAN_OUTCOMES_FILE) else []
    found = [row for path in paths for row in read_outcomes(folder, path)]
    return {Path(row.media_uri).name: (row.stage, row.outcome, row.reason) for row in found}


@pytest.fixture(scope="module")
def latents(corpus, tokenizer, ray_here, tmp_path_factory):
    """Of one pass over the corpus, all views."""
    output = tmp_path_factory.mktemp("latents")
    one_pass(corpus, tokenizer, output, **VIEWS)
    return output


@pytest.fixture(scope="module")
def by_clips(corpus, tokenizer, ray_here, tmp_path_factory):
    """The same through clip shards: the latents, and the clips."""
    output = tmp_path_factory.mktemp("by") / "latents"
    return output, two_steps(corpus, tokenizer, output, **VIEWS)


@pytest.fixture
def photographs(corpus, tmp_path):
    """Nine sound pictures in a folder of their own."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(9):
        with Image.open(corpus / ("coffee.png", "astronaut.png")[number % 2]) as picture:
            picture.convert("RGB").crop((10 * number, 0, 10 * number + 200, 200)).save(folder / f"{number}.jpg")
    return folder


def test_one_pass_stores_the_latents_of_prepare_and_encode_bit_for_bit(latents, by_clips):
    found, expected = rows(latents), rows(by_clips[0])
    assert len(found) == CLIPS
    assert found.keys() == expected.keys()
    for (bucket, key), row in found.items():
        other = expected[bucket, key]
        if bucket == "grid=1x4x4":
            # Two of its media are lost. One pass keeps their places in the batches, a clip shard does not, and kernels
            # may treat places unlike by a last bit.
            for name in document(latents)["latent"]["columns"]:
                values = np.frombuffer(row.pop(name), np.float16)
                np.testing.assert_allclose(values, np.frombuffer(other.pop(name), np.float16), rtol=2e-3, atol=2e-3)
        assert row == other


def test_a_corpus_of_which_nothing_is_lost_gives_the_same_files_captions_labels_and_columns_in_them(
    photographs, tokenizer, ray_here, digests, tmp_path
):
    table = tmp_path / "media.jsonl"
    described = [{"caption": f"No {number}", "label": "cup", "score": number / 7, "n": number} for number in range(9)]
    lines = [{"path": f"photographs/{number}.jpg"} | line for number, line in enumerate(described)]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = InputFlags(media_kind="image")
    one_pass(table, tokenizer, tmp_path / "one", clips=ClipFlags(**SHAPE, inputs=inputs))
    two_steps(table, tokenizer, tmp_path / "two", inputs=inputs)
    shards = [
        {name: digest for name, digest in digests(tmp_path / way).items() if name.startswith("grid=")}
        for way in ("one", "two")
    ]
    assert len(shards[0]) == 3
    assert shards[0] == shards[1]
    found = sorted(rows(tmp_path / "one").values(), key=lambda row: row["n"])
    assert [{name: row[name] for name in line} for row, line in zip(found, described, strict=True)] == described


def test_every_media_is_accounted_for_and_the_store_verifies_with_all_its_views(latents):
    assert document(latents)["counts"] == {"planned": CLIPS + 3, "stored": CLIPS, "filtered": 0, "rejected": 3}
    assert ended(latents) == {
        "truncated.jpg": ("decode", "rejected", "corrupt"),
        "notes.mp4": ("plan", "rejected", "unknown_format"),
        "empty.png": ("decode", "rejected", "empty_file"),
    }
    assert document(latents)["latent"]["columns"] == ["mean", "logvar", "mean_flip", "logvar_flip"]
    assert verify(VerifyConfig(store=str(latents))).problems == []
    assert not list(latents.glob("grid=*/*.tar"))


def test_a_clip_that_no_shard_accounts_for_is_found(latents, tmp_path):
    shutil.copytree(latents, tmp_path / "store")
    (outcomes,) = (tmp_path / "store").glob("outcomes/*/*.parquet")
    outcomes.unlink()
    assert any(outcomes.name in problem for problem in verify(VerifyConfig(store=str(tmp_path / "store"))).problems)


def test_the_store_says_how_its_clips_were_made(latents, by_clips):
    found, clips = document(latents), document(by_clips[1])
    expected = dict(clips["preprocessing"])
    assert expected.pop("codec") == {"name": "png"}
    assert found["preprocessing"] == expected
    assert found["columns"] == clips["columns"]
    assert found["tokenizer"] == document(by_clips[0])["tokenizer"]


def test_the_run_record_says_where_the_workers_time_went(latents):
    (path,) = latents.glob("runs/*/record.json")
    assert {"weights", "decode", "encode", "write", "commit"} <= json.loads(path.read_bytes())["worker_seconds"].keys()


def test_a_kill_in_the_middle_and_more_workers_change_no_byte(corpus, tokenizer, latents, digests, start_job, tmp_path):
    process = start_job(
        *("encode", "--input", str(corpus), "--tokenizer", tokenizer, "--output", str(tmp_path), "--logvar", "--flip"),
        *("--shard-size", "4", "--batch-size", "4", "--num-workers", "1"),
        *("--resolution", "32", "--num-frames", "4"),
    )
    while not list(tmp_path.glob("ledger/*/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "store.json").exists(), "the job ended before the kill, which then proves nothing"

    summary = one_pass(corpus, tokenizer, tmp_path, **VIEWS, num_workers=2)
    assert 0 < summary.resumed_shards < summary.shards == SHARDS
    assert digests(tmp_path) == digests(latents)


def test_clips_that_are_lost_leave_the_others_their_bits_and_are_borne_to_a_fraction(
    photographs, tokenizer, ray_here, tmp_path
):
    one_pass(photographs, tokenizer, tmp_path / "whole")
    for number in (0, 3, 5):
        (photographs / f"{number}.jpg").write_bytes((photographs / f"{number}.jpg").read_bytes()[:900])
    with pytest.raises(TooManyRejectsError, match="3 of 9 planned clips are rejected"):
        one_pass(photographs, tokenizer, tmp_path / "holes", max_reject_fraction=0.3)
    one_pass(photographs, tokenizer, tmp_path / "holes", max_reject_fraction=0.4)
    assert ended(tmp_path / "holes").keys() == {"0.jpg", "3.jpg", "5.jpg"}
    whole, holes = rows(tmp_path / "whole"), rows(tmp_path / "holes")
    assert len(holes) == 6

    def bits(row):
        return {name: value for name, value in row.items() if name != "media_sha256"}

    assert {key: bits(row) for key, row in holes.items()} == {key: bits(whole[key]) for key in holes}


def test_filters_and_duplicates_count_as_filtered(photographs, tokenizer, ray_here, tmp_path):
    shutil.copy(photographs / "0.jpg", photographs / "again.jpg")
    Image.new("RGB", (200, 200), (3, 2, 1)).save(photographs / "night.png")
    Image.new("RGB", (90, 90), (250, 20, 100)).save(photographs / "small.png")
    filters = Filters(near_black=8, min_side=100, duplicates="exact")
    summary = one_pass(photographs, tokenizer, tmp_path / "store", clips=ClipFlags(**SHAPE, filters=filters))
    assert (summary.planned, summary.stored, summary.filtered, summary.rejected) == (12, 9, 3, 0)
    assert ended(tmp_path / "store") == {
        "again.jpg": ("plan", "filtered", "duplicate"),
        "night.png": ("decode", "filtered", "near_black"),
        "small.png": ("plan", "filtered", "too_small"),
    }
    assert verify(VerifyConfig(store=str(tmp_path / "store"))).problems == []


def test_another_way_of_making_clips_is_refused_with_what_differs(corpus, tokenizer, latents):
    with pytest.raises(RunRefusedError, match=r"preprocessing\.sizes: \[\[32, 32\]\], now \[\[64, 64\]\]"):
        one_pass(corpus, tokenizer, latents, **VIEWS, clips=ClipFlags(**SHAPE | {"resolution": 64}))


def test_a_retry_is_refused(latents):
    with pytest.raises(ValueError, match="got encode, expected a store of prepare_corpus"):
        retry_rejects(RetryConfig(store=str(latents)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--shards and --input: got neither, expected one"),
        ({"shards": "clips", "input": ("media",)}, "--shards and --input: got both, expected one"),
        (
            {"shards": "clips", "clips": ClipFlags(fps="4", filters=Filters(min_side=9))},
            "--fps, --min-side: got a flag that makes clips of media, and --shards clips holds clips",
        ),
    ],
)
def test_clips_come_from_one_place(flags, message):
    with pytest.raises(ValueError, match=message):
        EncodeConfig(tokenizer="tokenizer", output="latents", **flags)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (ClipFlags(resolution=36, num_frames=4), "--resolution: got 36, expected a multiple of the tubelet's patch 8"),
        (ClipFlags(resolution=32, num_frames=5), "--num-frames: got 5, expected 1 or a multiple of the tubelet's 2"),
    ],
)
def test_clips_that_the_tokenizer_cannot_cut_are_refused_before_any_work(corpus, tokenizer, tmp_path, clips, message):
    with pytest.raises(ValueError, match=message):
        one_pass(corpus, tokenizer, tmp_path / "store", clips=clips)
    assert not (tmp_path / "store").exists()
