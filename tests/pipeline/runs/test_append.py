"""Stores grow by what is new: old bytes stay, rows are those of one run over all, and a kill costs nothing."""

import json
import shutil
import signal
import time

import pytest
import torch

from pipeline.runs.clip_flags import ClipFlags
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.store.plan import Plan, RunRefusedError
from pipeline.store.planned_clips import read_media
from pipeline.store.verify import check_totals
from schemas.metadata import CLIP_STORE_FORMAT, LATENT_STORE_FORMAT, PLAN_FILE, STORE_FILE
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster

FIRST = ("astronaut.png", "chelsea.png", "coffee.png", "empty.png")
SECOND = ("rocket.jpg", "camera.png", "retina.jpg", "truncated.jpg", "bikes.mp4", "notes.mp4")
PICTURES = 6
CLIPS = PICTURES + 5  # ten seconds at 2 frames a second, four frames a clip


def prepared(media, output, **changes):
    flags = {"resolution": 32, "num_frames": 4, "fps": "2", "tubelet": "2x8", "shard_size": 2, "num_workers": 1}
    return prepare(PrepareConfig(input=tuple(map(str, media)), output=str(output), **flags | changes))


def encoded(clips, tokenizer, output, **changes):
    flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
    return encode(EncodeConfig(shards=str(clips), tokenizer=tokenizer, output=str(output), **flags | changes))


def one_pass(inputs, tokenizer, output, **changes):
    flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
    clips = ClipFlags(resolution=32, num_frames=4, fps="2")
    inputs = tuple(map(str, inputs))
    return encode(EncodeConfig(input=inputs, tokenizer=tokenizer, output=str(output), clips=clips, **flags | changes))


def copied(corpus, folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy2(corpus / name, folder)
    return folder


def changed_files(before, after):
    """Files of before that are not there as they were."""
    return {path for path, digest in before.items() if after.get(path) != digest}


def rows_of(store):
    """Metadata and latents of each clip by key."""
    found = {}
    for batch in LatentStore(str(store)).batches(4):
        for row, key in enumerate(batch.columns["key"]):
            cells = {name: values[row] for name, values in batch.columns.items()}
            assert key not in found
            found[key] = (cells, {name: values[row].clone() for name, values in batch.latents.items()})
    return found


def assert_same_rows(one, other):
    assert one.keys() == other.keys()
    for key, (cells, latents) in one.items():
        assert cells == other[key][0]
        assert all(torch.equal(values, other[key][1][name]) for name, values in latents.items())


@pytest.fixture(scope="module")
def media(corpus, tmp_path_factory):
    """Two folders: the corpus in two parts."""
    folder = tmp_path_factory.mktemp("media")
    return copied(corpus, folder / "first", FIRST), copied(corpus, folder / "second", SECOND)


@pytest.fixture(scope="module")
def first(media, ray_here, tmp_path_factory):
    """Clip store of the first part."""
    output = tmp_path_factory.mktemp("clips")
    prepared(media[:1], output)
    return output


@pytest.fixture(scope="module")
def grown(media, first, tmp_path_factory):
    """That store, with the second part appended."""
    output = tmp_path_factory.mktemp("grown") / "clips"
    shutil.copytree(first, output)
    prepared(media, output, append=True)
    return output


@pytest.fixture(scope="module")
def second(media, ray_here, tmp_path_factory):
    """Clip store of the second part alone."""
    output = tmp_path_factory.mktemp("second")
    prepared(media[1:], output)
    return output


@pytest.fixture(scope="module")
def whole(media, ray_here, tmp_path_factory):
    """Clip store of both in one run."""
    output = tmp_path_factory.mktemp("whole")
    prepared(media, output)
    return output


@pytest.fixture(scope="module")
def latents(first, tokenizer, tmp_path_factory):
    """Latents of the first clip store."""
    output = tmp_path_factory.mktemp("latents")
    encoded(first, tokenizer, output)
    return output


@pytest.fixture(scope="module")
def grown_latents(grown, latents, tokenizer, tmp_path_factory):
    """The same, with those of the clip store as it grew."""
    output = tmp_path_factory.mktemp("grown") / "latents"
    shutil.copytree(latents, output)
    encoded(grown, tokenizer, output, append=True)
    return output


def test_an_appended_clip_store_keeps_its_bytes_and_holds_what_is_new(media, first, grown, second, digests):
    assert changed_files(digests(first), digests(grown)) == {PLAN_FILE, STORE_FILE}
    store = open_store(Folder(str(grown)), format_name=CLIP_STORE_FORMAT)
    assert store.document["counts"] == {"planned": CLIPS + 3, "stored": CLIPS, "filtered": 0, "rejected": 3}
    added = open_store(Folder(str(second)), format_name=CLIP_STORE_FORMAT).rows
    old = len(store.rows) - len(added)
    assert [row.sha256 for row in store.rows[old:]] == [row.sha256 for row in added]
    assert [row.shard for row in store.rows] == list(range(len(store.rows)))
    plan = Plan.load(store.folder)
    assert plan.identity == Plan.load(Folder(str(first))).identity
    assert [media.uri for media in read_media(store.folder, plan)][-1].startswith(str(media[1]))
    assert verify(VerifyConfig(store=str(grown))).problems == []


def test_appending_what_is_there_changes_no_byte(media, grown, grown_latents, tokenizer, digests, caplog):
    caplog.set_level("INFO", logger="pipeline")
    before = digests(grown), digests(grown_latents)
    assert prepared(media, grown, append=True).worked_clips == 0
    assert prepared(media[:1], grown, append=True).worked_clips == 0
    assert encoded(grown, tokenizer, grown_latents, append=True).worked_clips == 0
    assert caplog.text.count("nothing is new") == 3
    assert (digests(grown), digests(grown_latents)) == before


def test_each_start_that_made_a_store_is_known_again(media, first, grown, grown_latents, tokenizer, digests):
    before = digests(grown), digests(grown_latents)
    assert prepared(media[:1], grown).worked_clips == 0
    assert encoded(first, tokenizer, grown_latents).worked_clips == 0
    assert encoded(grown, tokenizer, grown_latents).worked_clips == 0
    assert (digests(grown), digests(grown_latents)) == before


def test_a_media_that_changed_is_refused_and_nothing_written(corpus, media, first, digests, tmp_path):
    changed = copied(corpus, tmp_path / "changed", ("coffee.png",))
    prepared([changed], tmp_path / "clips")
    before = digests(tmp_path / "clips")
    shutil.copy2(corpus / "camera.png", changed / "coffee.png")
    with pytest.raises(RunRefusedError, match=r"holds 1 of the media .*coffee\.png:\n  size_bytes: \d+, now \d+"):
        prepared([changed, media[0]], tmp_path / "clips", append=True)
    assert digests(tmp_path / "clips") == before


def test_other_flags_and_an_absent_store_are_refused(media, first, tmp_path):
    with pytest.raises(RunRefusedError, match=r"preprocessing\.sizes: \[\[32, 32\]\], now \[\[64, 64\]\]"):
        prepared(media, first, append=True, resolution=64)
    with pytest.raises(RunRefusedError, match="holds no store to append to"):
        prepared(media, tmp_path / "absent", append=True)
    with pytest.raises(ValueError, match="--append and --dry-run: got both"):
        prepared(media, first, append=True, dry_run=True)


def test_new_columns_are_refused_and_absent_ones_are_null(corpus, ray_here, tokenizer, tmp_path):
    def listed(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    scored = listed("a.jsonl", [{"path": str(corpus / "coffee.png"), "score": 1}])
    prepared([scored], tmp_path / "clips")
    worded = listed("b.jsonl", [{"path": str(corpus / "camera.png"), "score": "good"}])
    with pytest.raises(RunRefusedError, match=r"columns\.score: 'int64', now 'string'"):
        prepared([worded], tmp_path / "clips", append=True)
    assert prepared([corpus / "camera.png"], tmp_path / "clips", append=True).stored == 2
    assert json.loads((tmp_path / "clips" / STORE_FILE).read_bytes())["columns"] == {"score": "int64"}

    one_pass([scored], tokenizer, tmp_path / "latents")
    one_pass([corpus / "camera.png"], tokenizer, tmp_path / "latents", append=True)
    assert [cells["score"] for cells, _ in rows_of(tmp_path / "latents").values()] == [1, None]


def test_appended_latents_are_those_of_one_run(whole, grown_latents, latents, tokenizer, digests, tmp_path):
    encoded(whole, tokenizer, tmp_path)
    assert changed_files(digests(latents), digests(grown_latents)) == {PLAN_FILE, STORE_FILE}
    one, appended = LatentStore(str(tmp_path)), LatentStore(str(grown_latents))
    assert len(one) == len(appended) == CLIPS
    assert_same_rows(rows_of(tmp_path), rows_of(grown_latents))
    for grid in (None, *one.buckets):
        expected, found = one.statistics(grid), appended.statistics(grid)
        assert found.count == expected.count
        # The same numbers merged in another order of shards, in float64.
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found.std, expected.std, rtol=1e-12, atol=0)
    assert verify(VerifyConfig(store=str(grown_latents))).problems == []


def test_another_clip_store_is_appended_and_its_doubles_are_refused(first, second, whole, tokenizer, digests, tmp_path):
    encoded(first, tokenizer, tmp_path, format="webdataset")
    encoded(second, tokenizer, tmp_path, format="webdataset", append=True)
    assert len(rows_of(tmp_path)) == CLIPS
    before = digests(tmp_path)
    with pytest.raises(RunRefusedError, match=f"{CLIPS} clips would stand in it twice"):
        encoded(whole, tokenizer, tmp_path, format="webdataset", append=True)
    assert digests(tmp_path) == before


def test_what_does_not_go_with_a_latent_store_is_refused_line_by_line(media, latents, second, tokenizer, tmp_path):
    with pytest.raises(RunRefusedError, match=r"latent\.dtype: 'float16', now 'float32'"):
        encoded(second, tokenizer, latents, append=True, dtype="float32")
    prepared(media[1:], tmp_path / "other", quality=90)
    with pytest.raises(RunRefusedError, match=r"preprocessing\.codec\.quality: 98, now 90"):
        encoded(tmp_path / "other", tokenizer, latents, append=True)


def test_media_are_appended_to_a_store_of_one_pass(media, tokenizer, digests, tmp_path):
    one_pass(media[:1], tokenizer, tmp_path / "grown")
    before = digests(tmp_path / "grown")
    one_pass(media, tokenizer, tmp_path / "grown", append=True)
    assert changed_files(before, digests(tmp_path / "grown")) == {PLAN_FILE, STORE_FILE}
    one_pass(media, tokenizer, tmp_path / "whole")
    assert_same_rows(rows_of(tmp_path / "whole"), rows_of(tmp_path / "grown"))
    assert verify(VerifyConfig(store=str(tmp_path / "grown"))).problems == []


def killed_after(process, folder, count, old):
    """Wait until so many new records are there, then kill the job."""
    while len(list(folder.glob("ledger/*/*.json"))) < old + count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_an_append_killed_in_the_middle_leaves_the_old_store_and_ends_with_the_same_bytes(
    grown, latents, grown_latents, tokenizer, digests, start_job, tmp_path
):
    store = tmp_path / "latents"
    shutil.copytree(latents, store)
    old = len(list(store.glob("ledger/*/*.json")))
    flags = ("--shards", str(grown), "--tokenizer", tokenizer, "--output", str(store), "--append")
    flags += ("--shard-size", "2", "--batch-size", "2", "--num-workers", "1")
    killed_after(start_job("encode", *flags), store, 1, old)

    assert_same_rows(rows_of(latents), rows_of(store))
    before = open_store(Folder(str(latents)), format_name=LATENT_STORE_FORMAT)
    assert open_store(Folder(str(store)), format_name=LATENT_STORE_FORMAT).document == before.document
    (problem,) = verify(VerifyConfig(store=str(store))).problems
    assert problem.startswith("an append has begun and not finished: ")
    assert "start the same command again" in problem

    encoded(grown, tokenizer, store, append=True)
    assert digests(store) == digests(grown_latents)


def test_an_append_killed_before_its_plan_or_before_the_fold_goes_on(media, first, grown, digests, tmp_path):
    # As a kill leaves a store before plan.json is replaced: files of a part that no plan knows.
    early = tmp_path / "early"
    shutil.copytree(first, early)
    shutil.copytree(grown / "plan" / "part-00001", early / "plan" / "part-00001")
    assert verify(VerifyConfig(store=str(early))).problems == []
    prepared(media, early, append=True)
    assert digests(early) == digests(grown)

    # And between the last shard and the fold: all is committed, `store.json` is the old one.
    late = tmp_path / "late"
    shutil.copytree(grown, late)
    shutil.copy2(first / STORE_FILE, late)
    (late / "index-00001.parquet").unlink()
    (problem,) = verify(VerifyConfig(store=str(late))).problems
    added = len(Plan.load(Folder(str(late))).shards) - len(Plan.load(Folder(str(first))).shards)
    assert f"{added} of its {added} shards are committed" in problem
    assert prepared(media, late, append=True).worked_clips == 0
    assert digests(late) == digests(grown)


def test_shards_of_other_clips_are_left_to_who_has_them(first, second, tokenizer, digests, tmp_path):
    store = tmp_path / "latents"
    encoded(first, tokenizer, store)
    encoded(second, tokenizer, store, append=True)
    before = digests(store)
    shard = max(store.glob("grid=1x4x4/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert verify(VerifyConfig(store=str(store), repair=True)).dropped == 1
    with pytest.raises(RunRefusedError, match="1 shards are still to be made of other inputs"):
        encoded(first, tokenizer, store)
    encoded(second, tokenizer, store)
    assert digests(store) == before


def test_a_damaged_byte_in_a_part_is_found(grown, tmp_path):
    store = tmp_path / "clips"
    shutil.copytree(grown, store)
    path = store / "plan" / "part-00001" / "clips-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    problems = check_totals(open_store(Folder(str(store)), format_name=CLIP_STORE_FORMAT))
    assert [problem.partition(":")[0] for problem in problems] == ["plan/part-00001/clips-00000.parquet"]


def test_a_media_is_one_media_however_often_it_is_named(media, first, tmp_path):
    store = tmp_path / "clips"
    shutil.copytree(first, store)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{media[1] / name}\n" for name in ("camera.png", "camera.png")))
    assert prepared([names], store, append=True).worked_clips == 1
    assert prepared([names], store, append=True).worked_clips == 0
