import io
import os
import tarfile
import zipfile

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.columns import HIDDEN, NO_EXTENSION, NOT_A_FILE, NOT_UTF8
from pipeline.media.listing import MediaListing
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import MediaKind, read_media

FAST = RetryPolicy(base_seconds=0.001, max_seconds=0.002, timeout_seconds=0.3)
PARTS = st.sampled_from(["a", "b", "a-b", "a.b", "é", "B", "0"])


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.MP4", "b/1.jpg", "a.png", "notes.txt", "b/more.txt", "LICENSE", ".git/x.jpg", "b/.y.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def listed(*sources, **flags):
    listing = MediaListing([str(source) for source in sources], **flags)
    return list(listing), listing


def uris(*sources, **flags):
    return [media.uri for media in listed(*sources, **flags)[0]]


def test_a_folder_is_listed_with_all_below_it(folder):
    media, listing = listed(folder)
    assert [entry.uri for entry in media] == [str(folder / name) for name in ("a.png", "b/1.jpg", "b/2.MP4")]
    assert [entry.kind for entry in media] == [MediaKind.IMAGE, MediaKind.IMAGE, MediaKind.VIDEO]
    assert media[0].size_bytes == 5
    assert media[0].version == str((folder / "a.png").stat().st_mtime_ns)
    assert listing.ignored == {HIDDEN: 2, NO_EXTENSION: 1, "txt": 2}
    assert listing.column_types == {}


@settings(max_examples=40, deadline=None)
@given(names=st.sets(st.lists(PARTS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=10))
def test_a_walk_has_every_file_once_in_the_order_of_paths(tmp_path_factory, names):
    """On disk and elsewhere; a pattern that matches all is the same walk."""
    root = tmp_path_factory.mktemp("walk")
    elsewhere = fsspec.filesystem("memory")
    elsewhere.store.clear()
    expected = sorted(f"{name}.jpg" for name in names)
    for name in expected:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
        elsewhere.pipe_file(f"/walk/{name}", b"x")
    assert [uri.removeprefix(f"{root}/") for uri in uris(root)] == expected
    assert [uri.partition("/walk/")[2] for uri in uris("memory://walk")] == expected
    assert uris(root / "**") == uris(root / "*") == uris(root)
    assert uris("memory://walk/**") == uris("memory://walk")


@pytest.mark.parametrize("pattern", ["*/*.jpg", "**/1.*", "[a-b]/?.jpg", "a/*", "*", "**", "a*/**/2.jpg", "a/b"])
def test_patterns_match_what_the_file_system_says(tmp_path, pattern):
    """What fsspec's own glob matches, and all below it."""
    names = ("a/1.jpg", "a/2.jpg", "b/1.jpg", "a/b/2.jpg", "a/b/c/1.jpg", "ab/c/2.jpg", "1.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    disk = fsspec.filesystem("file")
    matched = disk.glob(f"{tmp_path}/{pattern}")
    expected = {file for path in matched for file in (disk.find(path) if disk.isdir(path) else [path])}
    assert uris(tmp_path / pattern) == sorted(expected)


def test_order_depends_on_the_set_of_inputs_alone(folder, monkeypatch):
    sources = [str(folder / "b"), str(folder / "*.png"), str(folder / "b" / "1.jpg")]
    one = uris(*sources)
    monkeypatch.chdir(folder)
    assert one == uris(*reversed(sources)) == uris("b", "*.png", "b/1.jpg", "b/../b", f"{folder}/b/")
    assert sorted(one) == [str(folder / name) for name in ("a.png", "b/1.jpg", "b/1.jpg", "b/2.MP4")]


def test_a_listing_is_iterated_once(folder):
    listing = MediaListing([str(folder)])
    list(listing)
    with pytest.raises(RuntimeError, match="once"):
        list(listing)


def test_relative_paths_and_urls_of_local_files_become_plain_paths(folder, monkeypatch):
    monkeypatch.chdir(folder / "b")
    assert uris("../a.png") == uris((folder / "a.png").as_uri()) == [str(folder / "a.png")]


def test_a_name_that_exists_is_taken_literally(tmp_path):
    (tmp_path / "[1].jpg").write_bytes(b"x")
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert uris(tmp_path / "[1].jpg") == [str(tmp_path / "[1].jpg")]


@pytest.mark.parametrize("name", ["a::b.jpg", "what?.jpg", "#1.jpg", "*.jpg", "a b.jpg"])
def test_names_that_look_like_urls_or_patterns(tmp_path, name):
    (tmp_path / name).write_bytes(b"pixels")
    for source in (tmp_path, tmp_path / name):
        (media,), _ = listed(source)
        assert media.uri == str(tmp_path / name)
        assert read_media(media, 100) == b"pixels"


def test_links_that_lead_nowhere_or_round_in_a_circle(folder):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "round").symlink_to(".", target_is_directory=True)
    (folder / "linked.jpg").symlink_to("a.png")
    media, listing = listed(folder)
    assert len(media) == 4
    assert listing.ignored[NOT_A_FILE] == 2
    assert len(uris(folder / "round")) == 4


def test_a_hidden_file_named_by_hand_is_media(folder):
    assert len(uris(folder / "b" / ".y.jpg")) == 1
    assert len(uris(folder / ".git")) == 1


def test_names_that_no_table_can_hold_are_counted(folder):
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    assert listed(folder)[1].ignored[NOT_UTF8] == 1


def test_labels_from_folders(folder):
    assert [media.label for media in listed(folder, labels_from_folders=True)[0]] == [folder.name, "b", "b"]
    assert {media.label for media in listed(folder)[0]} == {None}


def test_lists_count_only_where_they_are_named(folder):
    (folder / "c.jsonl").write_text('{"url": "a.png", "caption": "c"}\n')
    assert uris(folder) == [str(folder / name) for name in ("a.png", "b/1.jpg", "b/2.MP4")]
    for source in (folder / "c.jsonl", folder / "*.jsonl"):
        (media,), _ = listed(source)
        assert (media.uri, media.caption) == (str(folder / "a.png"), "c")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.pdf", "'pdf' is no media"),
        ("LICENSE", "'' is no media"),
        ("missing.jpg", "no such file"),
        ("missing/*.jpg", "nothing at all"),
        ("*.pdf", "1 of pdf"),
        ("missing::x.jpg", "no such file"),
    ],
)
def test_inputs_that_hold_no_media_are_refused(folder, name, message):
    (folder / "notes.pdf").touch()
    with pytest.raises(ValueError, match=message):
        listed(folder / name)


def test_one_input_without_media_among_others_is_refused(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=f"{empty}: holds no media .found nothing at all"):
        listed(folder, empty)


def test_another_file_system(folder):
    fsspec.filesystem("memory").store.clear()
    with fsspec.open("memory://photos/day/1.jpg", "wb") as file:
        file.write(b"pixels")
    (media,), _ = listed("memory://photos")
    assert media.uri.startswith("memory://")
    assert media.size_bytes == 6
    assert media.version
    assert [media] == listed("memory://photos/*/*.jpg")[0]
    assert [media.uri] == uris("memory://photos/day/1.jpg")
    assert read_media(media, 100) == b"pixels"


def test_members_of_an_archive(folder):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("day/1.jpg", b"pixels")
        archive.writestr("2.png", b"more")
    (media,), _ = listed(f"zip://*/*.jpg::{folder / 'photos.zip'}")
    assert read_media(media, 100) == b"pixels"
    everything, _ = listed(f"zip://::{folder / 'photos.zip'}")
    assert [read_media(entry, 100) for entry in everything] == [b"more", b"pixels"]


def test_files_behind_http(serve):
    """Lists and tars too, from a server that fails now and then."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        info = tarfile.TarInfo("x.jpg")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"member"))
    files = {"1.jpg": b"pixels", "a.txt": b"1.jpg\nhttp://other/2.jpg\n", "a.tar": held.getvalue()}
    with serve(files, lambda _path, before: "503" if before % 3 == 0 else None) as server:
        (image,), _ = listed(f"{server.url}/1.jpg", policy=FAST)
        assert (image.uri, image.size_bytes) == (f"{server.url}/1.jpg", 6)
        assert uris(f"{server.url}/a.txt", policy=FAST) == [f"{server.url}/1.jpg", "http://other/2.jpg"]
        (member,), _ = listed(f"{server.url}/a.tar", policy=FAST)
        assert member.uri == f"{server.url}/a.tar#x.jpg"
        assert read_media(member, 100, policy=FAST) == b"member"


@pytest.mark.parametrize(("status", "message"), [("404", "no such file"), ("503", "cannot be read: ")])
def test_a_server_that_does_not_give_an_input(serve, status, message):
    with (
        serve({"a.txt": b"1.jpg"}, lambda _path, _before: status) as server,
        pytest.raises(ValueError, match=message),
    ):
        listed(f"{server.url}/a.txt", policy=FAST)


def test_a_list_that_was_removed_after_the_first_look(serve):
    with (
        serve({"a.txt": b"1.jpg"}, lambda _path, before: "404" if before else None) as server,
        pytest.raises(ValueError, match=r"a\.txt: cannot be read: ClientResponseError"),
    ):
        listed(f"{server.url}/a.txt", policy=FAST)
