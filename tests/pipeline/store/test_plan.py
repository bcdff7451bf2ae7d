"""Every clip is planned into exactly one shard, by its place in the order alone."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.source import Media, MediaKind
from pipeline.store.documents import canonical_json, read_json, write_json
from pipeline.store.files import Folder
from pipeline.store.plan import Plan, PlanCounts, RunRefusedError
from pipeline.store.planned_clips import ClipPlanWriter, PlannedClip, read_planned_clips, read_planned_keys
from pipeline.store.planned_shards import PlannedShard, group_sources
from schemas import metadata as names

BUCKETS = ("grid=1x2x2", "grid=2x4x4", "grid=4x2x2")
IDENTITY = {"media": {"count": 3, "sha256": "aa"}, "shard_size": 2, "columns": ["mean", "logvar"]}
SHARDS = (
    PlannedShard(index=0, bucket=BUCKETS[0], num_clips=2),
    PlannedShard(index=1, bucket=BUCKETS[1], num_clips=1, sources=("a.tar", "b.tar")),
)


def clip(number):
    video = number % 2
    media = Media(
        uri=f"/media/Fuchs ü {number}.mp4",
        kind=MediaKind.VIDEO if video else MediaKind.IMAGE,
        size_bytes=None if video else number,
        version="",
        container="/media/a.tar" if video else None,
        offset=512 * number if video else None,
        label="fox" if video else None,
        columns={"score": number / 3, "tags": ["ü", None]} if video else {},
    )
    return PlannedClip(key=f"clip-{number}", media=media, clip_index=number, first_frame=4 * number if video else None)


def planned(folder, choices, shard_size):
    """The shards that clips make whose buckets are chosen by number, and the clips in each as read back."""
    with ClipPlanWriter(folder, shard_size=shard_size) as writer:
        for number, choice in enumerate(choices):
            writer.add(BUCKETS[choice], clip(number))
        writer.finish()
    return writer.shards, [read_planned_clips(folder, shard) for shard in writer.shards]


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "store"))


@pytest.fixture
def plan(folder):
    counts = PlanCounts(media=5, clips=3, filtered=1, rejected=1, reasons={"corrupt": 1, "too_short": 1})
    return Plan.save(folder, job="prepare", identity=IDENTITY, counts=counts, shards=SHARDS)


CHOICES = st.lists(st.integers(0, len(BUCKETS) - 1), max_size=40)


@settings(deadline=None, max_examples=40)
@given(CHOICES, st.integers(1, 7))
def test_every_clip_is_in_one_shard_of_its_bucket_in_order(tmp_path_factory, choices, shard_size):
    folder = Folder(str(tmp_path_factory.mktemp("plan")))
    shards, contents = planned(folder, choices, shard_size)
    for bucket_index, bucket in enumerate(BUCKETS):
        held = [
            entry for shard, clips in zip(shards, contents, strict=True) if shard.bucket == bucket for entry in clips
        ]
        assert held == [clip(number) for number, choice in enumerate(choices) if choice == bucket_index]
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [shard.num_clips for shard in shards] == [len(clips) for clips in contents]
    counts = Counter(choices)
    assert len(shards) == sum(math.ceil(count / shard_size) for count in counts.values())
    assert all(1 <= shard.num_clips <= shard_size for shard in shards)


@settings(deadline=None, max_examples=20)
@given(CHOICES, st.integers(1, 4))
def test_the_same_order_gives_the_same_bytes(tmp_path_factory, choices, shard_size):
    first, second = (Folder(str(tmp_path_factory.mktemp("plan"))) for _ in range(2))
    assert planned(first, choices, shard_size) == planned(second, choices, shard_size)
    assert first.find() == second.find()
    assert [first.read_bytes(path) for path in first.find()] == [second.read_bytes(path) for path in second.find()]


def test_what_follows_a_full_shard_does_not_change_it(folder, tmp_path):
    _, short = planned(folder, [0, 1, 0, 0, 1, 0], 2)
    _, long = planned(Folder(str(tmp_path / "longer")), [0, 1, 0, 0, 1, 0, 2, 0, 1, 1], 2)
    assert long[:3] == short[:3]


def test_plan_files_hold_a_bounded_number_of_shards(folder, monkeypatch):
    monkeypatch.setattr(names, "SHARDS_PER_PLAN_FILE", 3)
    monkeypatch.setattr("pipeline.store.planned_clips.SHARDS_PER_PLAN_FILE", 3)
    shards, contents = planned(folder, [0, 1] * 8, 2)
    assert len(shards) == 8
    assert folder.find() == [f"plan/clips-{number:05d}.parquet" for number in range(3)]
    groups = [pq.ParquetFile(folder.open(path)).num_row_groups for path in folder.find()]
    assert groups == [3, 3, 2]
    assert sorted(entry.clip_index for clips in contents for entry in clips) == list(range(16))


def test_plan_files_are_written_as_shards_fill(folder, monkeypatch):
    monkeypatch.setattr("pipeline.store.planned_clips.SHARDS_PER_PLAN_FILE", 1)
    monkeypatch.setattr(names, "SHARDS_PER_PLAN_FILE", 1)
    with ClipPlanWriter(folder, shard_size=2) as writer:
        writer.add(BUCKETS[0], clip(0))
        assert folder.find() == []
        writer.add(BUCKETS[0], clip(1))
        assert folder.find() == ["plan/clips-00000.parquet"]


def saved(folder, choices, shard_size=2):
    """The plan of these clips; see `planned`."""
    shards, _ = planned(folder, choices, shard_size)
    counts = PlanCounts(media=len(choices), clips=len(choices))
    return Plan.save(folder, job="prepare", identity=IDENTITY, counts=counts, shards=shards)


def grown(folder, plan, numbers, identity, shard_size=2):
    """The plan with a part of further clips."""
    with ClipPlanWriter(folder, shard_size=shard_size, part=len(plan.parts) + 1) as writer:
        for number in numbers:
            writer.add(BUCKETS[1], clip(number))
        writer.finish()
    counts = plan.counts + PlanCounts(media=2, clips=len(numbers), rejected=1, reasons={"corrupt": 1})
    return plan.grow(folder, identity=identity, counts=counts, shards=writer.shards, files=writer.files)


@pytest.mark.parametrize("before", [0, 1, 3, 4])
def test_a_plan_that_grows_keeps_what_it_had(folder, monkeypatch, before):
    monkeypatch.setattr("pipeline.store.planned_clips.SHARDS_PER_PLAN_FILE", 3)
    monkeypatch.setattr(names, "SHARDS_PER_PLAN_FILE", 3)
    plan = saved(folder, [0] * 2 * before)
    old = {path: folder.read_bytes(path) for path in folder.find() if path != names.PLAN_FILE}
    contents = [read_planned_clips(folder, shard) for shard in plan.shards]
    one = grown(folder, plan, range(100, 105), IDENTITY | {"media": 1})
    two = grown(folder, grown(folder, one, [], None), range(200, 203), IDENTITY | {"media": 2})
    assert two == Plan.load(folder)
    assert {path: folder.read_bytes(path) for path in old} == old
    assert two.shards[:before] == plan.shards
    assert [shard.index for shard in two.shards] == list(range(before + 5))
    assert two.part_starts == (0, before, before + 3, before + 3)
    added = ((100, 101), (102, 103), (104,), (200, 201), (202,))
    found = [read_planned_clips(folder, shard) for shard in two.shards]
    assert found == [*contents, *([clip(number) for number in numbers] for numbers in added)]
    assert [read_planned_keys(folder, shard) for shard in two.shards] == [[row.key for row in rows] for rows in found]
    assert two.counts == PlanCounts(media=2 * before + 6, clips=2 * before + 8, rejected=3, reasons={"corrupt": 3})


def test_the_fingerprint_of_a_grown_plan_is_of_its_history(folder, tmp_path):
    plan = saved(folder, [0, 0])
    one = grown(folder, plan, [7], IDENTITY | {"media": 1})
    retried = grown(folder, one, [8], None)
    two = grown(folder, retried, [9], IDENTITY | {"media": 2})
    assert two.history == (plan.fingerprint, one.fingerprint, retried.fingerprint, two.fingerprint)
    assert len(set(two.history)) == 3  # a retry brings back what was planned: the same corpus
    assert two.identities == (IDENTITY, IDENTITY | {"media": 1}, None, IDENTITY | {"media": 2})
    assert two.before() == replace(retried, files=two.files)
    other = Folder(str(tmp_path / "other"))
    assert grown(other, saved(other, [0, 0]), [7], IDENTITY | {"media": 2}).fingerprint != one.fingerprint


def test_a_part_that_was_not_finished_is_no_part(folder):
    plan = saved(folder, [0, 0, 0])
    before = folder.read_bytes(names.PLAN_FILE)
    grown(folder, plan, [7, 8, 9], IDENTITY | {"media": 1})
    folder.write_bytes(names.PLAN_FILE, before)  # as a kill leaves it just before `plan.json` is replaced
    assert Plan.load(folder) == plan
    again = grown(folder, plan, [7], IDENTITY | {"media": 1})
    assert [row.key for row in read_planned_clips(folder, again.shards[-1])] == ["clip-7"]


def test_no_clips_are_no_shards(folder):
    assert planned(folder, [], 4) == ([], [])
    assert folder.find() == []


def test_a_plan_comes_back_as_it_was_saved(folder, plan):
    assert Plan.load(folder) == plan
    assert plan.counts.planned == 5


def test_the_bucket_of_a_shards_clips_stands_on_disk_only_where_a_shard_has_another(folder, plan):
    assert "clip_bucket" not in pq.read_schema(folder.path(names.SHARDS_FILE)).names
    shards = (replace(SHARDS[0], clip_bucket="grid=5x4x4"), SHARDS[1])
    saved = Plan.save(folder, job="encode", identity=IDENTITY, counts=plan.counts, shards=shards)
    assert Plan.load(folder) == saved
    assert saved.shards == shards
    assert "clip_bucket" in pq.read_schema(folder.path(names.SHARDS_FILE)).names


@pytest.mark.parametrize("rows", [1, 3, 4096])
def test_a_plan_of_many_shards_loads_as_it_was_saved(folder, monkeypatch, rows):
    monkeypatch.setattr("pipeline.store.planned_shards._LOADED_ROWS", rows)
    shards = tuple(
        PlannedShard(
            index=index,
            bucket=BUCKETS[index % 3],
            num_clips=10**6 + index,
            sources=tuple(f"{part}.tar" for part in range(index % 4)),
        )
        for index in range(11)
    )
    saved = Plan.save(folder, job="encode", identity=IDENTITY, counts=PlanCounts(media=0, clips=3), shards=shards)
    assert Plan.load(folder) == saved
    assert saved.shards == shards


def test_a_plan_without_its_last_file_is_no_plan(folder, plan):
    folder.remove(names.PLAN_FILE)
    assert Plan.load(folder) is None


def test_a_plan_of_another_version_is_refused(folder, plan):
    write_json(folder, names.PLAN_FILE, read_json(folder, names.PLAN_FILE) | {"format_version": 2})
    with pytest.raises(RunRefusedError, match="plan format 2, this program writes 1"):
        Plan.load(folder)


def test_the_fingerprint_is_of_the_identity_alone(folder, plan, tmp_path):
    other = Plan.save(
        Folder(str(tmp_path / "other")), job="encode", identity=IDENTITY, counts=PlanCounts(media=0, clips=0), shards=()
    )
    assert other.fingerprint == plan.fingerprint
    grown = Plan.save(folder, job="prepare", identity=IDENTITY | {"x": 1}, counts=plan.counts, shards=())
    assert grown.fingerprint != plan.fingerprint


def test_the_identity_it_was_planned_with_passes(folder, plan):
    loaded = Plan.load(folder)
    loaded.check(folder=folder, job="prepare", identity=dict(reversed(IDENTITY.items())))


def test_another_identity_is_refused_and_each_difference_named(folder, plan):
    with pytest.raises(RunRefusedError) as refused:
        Plan.load(folder).check(
            folder=folder, job="prepare", identity=IDENTITY | {"media": {"count": 4, "sha256": "aa"}, "shard_size": 8}
        )
    message = str(refused.value)
    assert "media.count: 3, now 4\n  shard_size: 2, now 8\n" in message
    assert "sha256" not in message
    assert folder.url in message


def test_another_job_is_refused(folder, plan):
    with pytest.raises(RunRefusedError, match="job: 'prepare', now 'encode'"):
        plan.check(folder=folder, job="encode", identity=IDENTITY)


def test_saving_twice_gives_the_same_bytes(folder, plan):
    before = {path: folder.read_bytes(path) for path in folder.find()}
    Plan.save(folder, job=plan.job, identity=plan.identity, counts=plan.counts, shards=plan.shards)
    assert {path: folder.read_bytes(path) for path in folder.find()} == before
    assert canonical_json(plan.identity) == canonical_json(IDENTITY)


SOURCES = st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(1, 12)), max_size=30)


@given(SOURCES, st.integers(1, 20))
def test_groups_partition_the_sources_and_keep_their_order(sources, shard_size):
    named = [(bucket, f"{bucket}/{number}.tar", count) for number, (bucket, count) in enumerate(sources)]
    sizes = {path: count for _, path, count in named}
    shards = list(group_sources(iter(named), shard_size=shard_size))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    for bucket in BUCKETS:
        held = [path for shard in shards if shard.bucket == bucket for path in shard.sources]
        assert held == [path for where, path, _ in named if where == bucket]
    for shard in shards:
        assert shard.num_clips == sum(sizes[path] for path in shard.sources)
        assert shard.num_clips <= shard_size or len(shard.sources) == 1


@given(SOURCES, st.integers(1, 20))
def test_neighbouring_groups_of_a_bucket_would_not_fit_into_one(sources, shard_size):
    named = [(bucket, f"{number}", count) for number, (bucket, count) in enumerate(sources)]
    sizes = {path: count for _, path, count in named}
    shards = list(group_sources(named, shard_size=shard_size))
    for bucket in BUCKETS:
        ours = [shard for shard in shards if shard.bucket == bucket]
        for shard, following in itertools.pairwise(ours):
            assert shard.num_clips + sizes[following.sources[0]] > shard_size


def test_shards_are_named_by_bucket_and_place():
    assert replace(SHARDS[1], index=7).name == "grid=2x4x4/shard-00000007"
