"""Every kind of input becomes the same clips; what comes with a media reaches the latent store; a dry run foretells."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from pipeline.runs.clip_flags import InputFlags, SpanFlags
from pipeline.runs.dry_run import dry_run
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.stages.protocol import Filters
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.ledger import read_outcomes
from schemas.metadata import PLAN_OUTCOMES_FILE, STORE_FILE
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster

FLAGS = {"resolution": 32, "num_frames": 4, "fps": "8", "tubelet": "2x8", "shard_size": 8, "num_workers": 1}
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def prepared(output, *inputs, **changes):
    prepare(PrepareConfig(input=tuple(str(entry) for entry in inputs), output=str(output), **FLAGS | changes))
    return [clip for path in sorted(output.glob("grid=*/*.tar")) for clip in clips_of(path)]


def clips_of(path):
    with path.open("rb") as stream:
        yield from read_clips(stream, where=path.name)


def document(store):
    return json.loads((store / STORE_FILE).read_bytes())


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Four photographs in folders of two classes."""
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(NAMES):
        target = folder / ("cat", "dog")[number % 2] / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(corpus / name, target)
    return folder


@pytest.fixture(scope="module")
def expected(folder, ray_here, tmp_path_factory):
    """Pixels of the photographs' clips by the hash of the media."""
    clips = prepared(tmp_path_factory.mktemp("files"), folder)
    assert len(clips) == len(NAMES)
    return {clip.metadata.media_sha256: clip.pixels.tobytes() for clip in clips}


def pixels_of(clips):
    return {clip.metadata.media_sha256: clip.pixels.tobytes() for clip in clips}


def rows(folder):
    """The photographs with a caption and columns of several types."""
    return [
        {"path": str(path), "caption": f"a picture ü {number}", "score": number / 4, "tags": ["x", number], "n": number}
        for number, path in enumerate(sorted(folder.glob("*/*")))
    ]


def as_tar(folder, path):
    with path.open("wb") as stream:
        writer = webdataset.TarWriter(stream, encoder=False)
        for number, row in enumerate(rows(folder)):
            about = json.dumps({"score": row["score"], "tags": row["tags"], "n": row["n"]}).encode()
            extension = Path(row["path"]).suffix[1:]
            data = Path(row["path"]).read_bytes()
            writer.write({"__key__": f"{number:04}", extension: data, "txt": row["caption"].encode(), "json": about})
        writer.close()


def as_parquet(folder, path):
    entries = rows(folder)
    images = [{"bytes": Path(row["path"]).read_bytes(), "path": Path(row["path"]).name} for row in entries]
    columns = {name: [row[name] for row in entries] for name in ("caption", "score", "n")}
    tags = pa.array([json.dumps(row["tags"]) for row in entries])
    pq.write_table(pa.table({"image": images, **columns, "tags": tags}), path, row_group_size=3)


def as_jsonl(folder, path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(folder)))


def as_csv(folder, path):
    lines = [
        "path,caption,score,n",
        *(f"{row['path']},{row['caption']},{row['score']},{row['n']}" for row in rows(folder)),
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("write", "name", "types"),
    [
        (as_tar, "photographs.tar", {"score": "float64", "tags": "json", "n": "int64"}),
        (as_parquet, "photographs.parquet", {"score": "float64", "tags": "string", "n": "int64"}),
        (as_jsonl, "photographs.jsonl", {"score": "float64", "tags": "json", "n": "int64"}),
        (as_csv, "photographs.csv", {"score": "string", "n": "string"}),
    ],
    ids=["tar", "parquet", "jsonl", "csv"],
)
def test_containers_and_lists_give_the_clips_of_the_files(folder, expected, tmp_path, write, name, types):
    write(folder, tmp_path / name)
    clips = prepared(tmp_path / "store", tmp_path / name)
    assert pixels_of(clips) == expected
    assert document(tmp_path / "store")["columns"] == types
    numbers = {clip.metadata.caption: clip.metadata.columns["n"] for clip in clips}
    assert {int(number) for number in numbers.values()} == {0, 1, 2, 3}
    assert all(caption == f"a picture ü {number}" for caption, number in numbers.items())
    assert verify(VerifyConfig(store=str(tmp_path / "store"))).problems == []


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_what_comes_with_a_media_reaches_the_latent_store(folder, tokenizer, ray_here, tmp_path, form):
    as_jsonl(folder, tmp_path / "list.jsonl")
    prepared(tmp_path / "clips", tmp_path / "list.jsonl", inputs=InputFlags(labels_from_folders=True))
    flags = {"batch_size": 4, "num_workers": 1, "format": form}
    encode(EncodeConfig(shards=str(tmp_path / "clips"), tokenizer=tokenizer, output=str(tmp_path / "latents"), **flags))
    (batch,) = LatentStore(str(tmp_path / "latents")).batches(8)
    assert sorted(batch.columns["label"]) == ["cat", "cat", "dog", "dog"]
    for caption, score, tags, number in zip(
        *(batch.columns[name] for name in ("caption", "score", "tags", "n")), strict=True
    ):
        assert caption == f"a picture ü {number}"
        assert (score, json.loads(tags)) == (number / 4, ["x", number])
    assert verify(VerifyConfig(store=str(tmp_path / "latents"))).problems == []


def test_each_shape_has_its_bucket_and_none_is_dropped(corpus, ray_here, tmp_path):
    clips = prepared(tmp_path / "store", corpus, sizes="32x32,24x40,40x24")
    found = document(tmp_path / "store")["buckets"]
    assert {name: bucket["clips"] for name, bucket in found.items()} == {
        "grid=1x3x5": 3,
        "grid=1x4x4": 3,
        "grid=2x3x5": 20,
    }
    assert {clip.pixels.shape[1:3] for clip in clips} == {(32, 32), (24, 40)}
    assert sum(bucket["clips"] for bucket in found.values()) == document(tmp_path / "store")["counts"]["stored"]


def test_what_is_not_wanted_is_filtered_and_told(corpus, ray_here, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    for name in ("coffee.png", "rocket.jpg", "camera.png"):
        shutil.copy(corpus / name, media)
    shutil.copy(media / "coffee.png", media / "coffee again.png")
    with Image.open(media / "rocket.jpg") as picture:
        picture.resize((picture.width // 2, picture.height // 2)).save(media / "small rocket.png")
    Image.new("RGB", (300, 300), (2, 2, 2)).save(media / "zz night.png")
    store = tmp_path / "store"
    prepared(store, media, filters=Filters(duplicates="near", near_black=8))
    assert document(store)["counts"] == {"planned": 6, "stored": 3, "filtered": 3, "rejected": 0}
    rows = read_outcomes(Folder(str(store)), PLAN_OUTCOMES_FILE)
    assert {Path(row.media_uri).name: row.reason for row in rows} == {
        "coffee.png": "duplicate",
        "small rocket.png": "near_duplicate",
    }
    assert verify(VerifyConfig(store=str(store))).problems == []


def test_clips_are_taken_where_the_flags_say(corpus, ray_here, tmp_path):
    def starts(name, **flags):
        clips = prepared(tmp_path / name, corpus / "bikes.mp4", spans=SpanFlags(**flags))
        return [clip.metadata.start_seconds for clip in clips]

    assert len(starts("count", clips="count", clips_per_media=3)) == 3
    one, same, other = (
        starts(f"random-{number}", clips="random", clips_per_media=2, seed=seed)
        for number, seed in enumerate((1, 1, 2))
    )
    assert one == same != other


def test_a_dry_run_foretells_the_run_and_writes_nothing(corpus, ray_here, tmp_path):
    output = tmp_path / "store"
    forecast = dry_run(PrepareConfig(input=(str(corpus),), output=str(output), **FLAGS))
    assert not output.exists()
    clips = prepared(output, corpus)
    assert sum(forecast.clips.values()) == len(clips)
    assert forecast.clips == {name: bucket["clips"] for name, bucket in document(output)["buckets"].items()}
    assert forecast.ended == {"corrupt": 1, "empty_file": 1, "unknown_format": 1}
    assert forecast.size_bytes == sum(path.stat().st_size for path in output.glob("grid=*/*.tar"))
    assert forecast.clips_per_second > 0
    assert "8 image, 2 video" in str(forecast)


def test_a_dry_run_over_broken_media_alone_says_that_nothing_would_be_stored(ray_here, tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "empty.png").write_bytes(b"")
    forecast = dry_run(PrepareConfig(input=(str(tmp_path / "media"),), output=str(tmp_path / "store"), **FLAGS))
    assert (forecast.clips, forecast.ended) == ({}, {"empty_file": 1})
    assert "lost       1 empty_file" in str(forecast)
