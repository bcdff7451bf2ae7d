import csv
import json

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.columns import NO_MEDIA, NOT_UTF8, ColumnNames
from pipeline.media.listing import MediaListing
from pipeline.media.source import MediaKind

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=20).filter(
    lambda name: "://" not in name and "/" not in name and name.strip(".")
)
CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
ROWS = st.lists(st.tuples(NAMES, CELLS, CELLS), min_size=1, max_size=8)


def listed(path, **flags):
    listing = MediaListing([str(path)], **flags)
    return list(listing), listing


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_the_same_rows_in_every_format(tmp_path_factory, rows):
    """csv, tsv and jsonl say the same; txt says their names."""
    folder = tmp_path_factory.mktemp("lists")
    rows = [(f"{name}.jpg", caption, other) for name, caption, other in rows]
    for extension, delimiter in (("csv", ","), ("tsv", "\t")):
        with (folder / f"a.{extension}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([("path", "caption", "other"), *rows])
    (folder / "a.jsonl").write_text(
        "".join(json.dumps(dict(zip(("path", "caption", "other"), row, strict=True))) + "\n" for row in rows)
    )
    (folder / "a.txt").write_text("\n".join(name for name, _, _ in rows))
    by_format = {name: listed(folder / f"a.{name}") for name in ("csv", "tsv", "jsonl", "txt")}
    media, listing = by_format["csv"]
    assert [entry.uri for entry in media] == [f"{folder}/{name}" for name, _, _ in rows]
    assert [(entry.caption or "", entry.columns) for entry in media] == [
        (caption, {"other": other}) for _, caption, other in rows
    ]
    assert media == by_format["tsv"][0] == by_format["jsonl"][0]
    assert listing.column_types == by_format["jsonl"][1].column_types == {"other": "string"}
    assert [entry.uri for entry in by_format["txt"][0]] == [entry.uri for entry in media]


def test_names_start_where_they_should(tmp_path, monkeypatch):
    """A relative path starts at the list's folder, wherever the program runs."""
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "a.txt"
    names = ["b.jpg", "../c.mp4", "/data/../d.png", "http://h/e.webp?x=1", "file:///f%20g.jpg", "s3://b/i j.jpg"]
    path.write_text("\ufeff" + "\r\n".join(names) + "\n\n")
    monkeypatch.chdir(tmp_path)
    media, _ = listed("lists/a.txt")
    assert [entry.uri for entry in media] == [
        str(tmp_path / "lists/b.jpg"),
        str(tmp_path / "c.mp4"),
        "/d.png",
        "http://h/e.webp?x=1",
        "/f g.jpg",
        "s3://b/i j.jpg",
    ]
    assert [entry.kind for entry in media][1] is MediaKind.VIDEO
    assert {(entry.size_bytes, entry.version, entry.container) for entry in media} == {(None, "", None)}
    with fsspec.open("memory://lists/a.txt", "w") as file:
        file.write("day/1.jpg")
    assert [entry.uri for entry in listed("memory://lists/a.txt")[0]] == ["memory:///lists/day/1.jpg"]


def test_columns_pass_through_as_json_with_the_type_that_holds_all(tmp_path):
    rows = [
        {"url": "s3://b/1.jpg", "n": 1, "x": 1, "flag": True, "mixed": 1, "tags": ["a"], "never": None, "big": 1},
        {"url": "s3://b/2.jpg", "n": None, "x": 0.5, "flag": None, "mixed": "a", "tags": {"b": 1}, "big": 2**70},
        {"url": "s3://b/3.jpg", "late": "é"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"url": "s3://b/4.jpg", "x": NaN, "n": -Infinity}\n')
    media, listing = listed(path)
    assert [dict(entry.columns) for entry in media[:3]] == [
        {name: value for name, value in row.items() if name != "url"} for row in rows
    ]
    assert media[3].columns == {"x": None, "n": None}
    assert listing.column_types == {
        "n": "int64",
        "x": "float64",
        "flag": "bool",
        "mixed": "json",
        "tags": "json",
        "never": "string",
        "big": "json",
        "late": "string",
    }


def test_captions_and_labels_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"URL": "s3://b/1.jpg", "TEXT": "a fox", "cls": 7, "title": "t"}\n')
    (media,), _ = listed(path)
    assert (media.caption, media.label, media.columns) == ("a fox", "7", {"title": "t"})
    (media,), _ = listed(path, names=ColumnNames(caption="title", label="TEXT"))
    assert (media.caption, media.label, media.columns) == ("t", "a fox", {"cls": 7})


def test_names_of_the_store_give_way(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": "s3://b/1.jpg", "key": "k", "caption": "c", "text": "t"}\n')
    (media,), listing = listed(path, names=ColumnNames(caption="text"), taken=frozenset({"key", "caption"}))
    assert media.columns == {"media_key": "k", "media_caption": "c"}
    assert sorted(listing.column_types) == ["media_caption", "media_key"]


@pytest.mark.parametrize(
    ("row", "taken"),
    [('"key": 1', {"key", "media_key"}), ('"media_key": 1}\n{"url": "s3://b/2.jpg", "key": 1', {"key"})],
)
def test_names_that_cannot_give_way(tmp_path, row, taken):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"url": "s3://b/1.jpg", {row}}}\n')
    with pytest.raises(ValueError, match=r"column 'key' would be stored as 'media_key'.*Rename"):
        listed(path, taken=frozenset(taken))


def test_the_kind_is_of_extension_then_column_then_flag(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("video_url\nhttp://h/1\nhttp://h/2.jpg\nhttp://h/3.php?f=x.png\n")
    assert [entry.kind for entry in listed(path)[0]] == [MediaKind.VIDEO, MediaKind.IMAGE, MediaKind.VIDEO]
    path.write_text("url\nhttp://h/1\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 2: .*'http://h/1' in column 'url' tells neither"):
        listed(path)
    assert listed(path, names=ColumnNames(kind="video"))[0][0].kind is MediaKind.VIDEO


def test_rows_without_media_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"url,label\ns3://b/1.jpg,a\n,b\ns3://b/\xff.jpg,c\ns3://b/\0.jpg,d\ns3://b/2.jpg,\xff\n")
    media, listing = listed(path)
    assert [(entry.uri, entry.label) for entry in media] == [("s3://b/1.jpg", "a"), ("s3://b/2.jpg", "\ufffd")]
    assert listing.ignored == {NO_MEDIA: 2, NOT_UTF8: 1}


def test_labels_from_folders(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"path": "fox/1.jpg"}\n{"path": "fox/2.jpg", "label": "cat"}\n{"path": "http://h/owl/3.jpg?a=/b"}\n'
    )
    assert [entry.label for entry in listed(path, labels_from_folders=True)[0]] == ["fox", "cat", "owl"]
    assert [entry.label for entry in listed(path)[0]] == [None, "cat", None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"url": "s3://b/1.jpg"}\n{"url": ', r"a\.jsonl, row 2: is no JSON"),
        ("a.jsonl", '["s3://b/1.jpg"]\n', "row 1: holds list"),
        ("a.jsonl", '{"url": 7}\n', "column 'url' holds 7"),
        ("a.jsonl", '{"title": "x"}\n', r"row 1: has no column of a name such as .*\['title'\]"),
        ("a.csv", "url,n\ns3://b/1.jpg\n", "row 2: has 1 values, expected 2"),
        ("a.csv", "url,url\n", "two columns"),
        ("a.csv", 'url\n"s3://b/1.jpg\n', "is no CSV"),
        ("a.csv", "url\n", "holds no media"),
        ("a.txt", "", "holds no media"),
        ("a.txt", "notes.pdf\n", r"a\.txt, row 1: .*neither image nor video"),
        ("a.txt", "nowhere://b/1.jpg\n", "row 1: 'nowhere://b/1.jpg': Protocol not known"),
    ],
)
def test_lists_that_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        listed(tmp_path / name)


@pytest.mark.parametrize("flags", [{"media": "uri2"}, {"caption": "titel"}, {"label": "klass"}])
def test_a_column_that_stands_nowhere_is_refused(tmp_path, flags):
    (tmp_path / "a.jsonl").write_text('{"url": "s3://b/1.jpg", "title": "x"}\n')
    with pytest.raises(ValueError, match=next(iter(flags.values()))):
        listed(tmp_path / "a.jsonl", names=ColumnNames(**flags))


def test_too_many_columns(tmp_path):
    row = {"url": "s3://b/1.jpg"} | {f"c{index}": index for index in range(1001)}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="one more than 1000"):
        listed(tmp_path / "a.jsonl")
