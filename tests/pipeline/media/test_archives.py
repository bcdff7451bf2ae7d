import datetime
import decimal
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.media.columns import HIDDEN, NO_EXTENSION, NO_MEDIA, NOT_A_FILE, ColumnNames
from pipeline.media.listing import MediaListing
from pipeline.media.source import MediaKind, MediaOpener
from schemas.outcome import Reason

JPEG = b"\xff\xd8\xff" + bytes(20)
MP4 = bytes(4) + b"ftypisom" + bytes(20)


def listed(*paths, **flags):
    listing = MediaListing([str(path) for path in paths], **flags)
    return list(listing), listing


def write_samples(path, samples):
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)


def write_members(path, members):
    with tarfile.open(path, "w") as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


@pytest.fixture
def samples():
    return [
        {
            "__key__": f"day/{index:03d}",
            "jpg": JPEG + bytes([index]),
            "txt": f"caption {index}".encode(),
            "cls": str(index % 3).encode(),
            "json": json.dumps({"width": index, "nested": {"a": [index]}}).encode(),
        }
        for index in range(20)
    ]


def test_every_sample_of_a_webdataset_tar(tmp_path, samples):
    path = tmp_path / "000.tar"
    write_samples(path, samples)
    media, listing = listed(path)
    assert [entry.uri for entry in media] == [f"{path}#{sample['__key__']}.jpg" for sample in samples]
    assert [entry.caption for entry in media] == [sample["txt"].decode() for sample in samples]
    assert [entry.label for entry in media] == [sample["cls"].decode() for sample in samples]
    assert [entry.columns for entry in media] == [json.loads(sample["json"]) for sample in samples]
    assert {entry.version for entry in media} == {str(path.stat().st_mtime_ns)}
    assert listing.column_types == {"nested": "json", "width": "int64"}
    assert listing.ignored == {}
    with MediaOpener() as opener:
        assert [opener.read(entry, 1000) for entry in media] == [sample["jpg"] for sample in samples]


def test_a_folder_of_shards_is_its_shards(tmp_path, samples):
    write_samples(tmp_path / "1.tar", samples[10:])
    write_samples(tmp_path / "0.tar", samples[:10])
    (tmp_path / "index.csv").write_text("url\n")
    whole, listing = listed(tmp_path)
    assert whole == listed(tmp_path / "0.tar", tmp_path / "1.tar")[0] == listed(tmp_path / "*.tar")[0]
    assert len(whole) == 20
    assert listing.ignored == {"csv": 1}


def test_members_of_all_sorts(tmp_path):
    path = tmp_path / "a.tar"
    write_members(
        path,
        [
            ("./a.jpg", JPEG),
            ("./a.seg.png", b"seg"),
            ("./a.mp4", MP4),
            ("./._a.jpg", b"resource fork"),
            ("./a.TXT", b" both \n"),
            ("b.json", b'{"caption": "of json", "label": 3, "x": 1}'),
            ("b.webp", b"b"),
            ("c.webp", b"c"),
            ("c.txt", b"of txt"),
            ("c.json", b'{"caption": "of json"}'),
            ("d.webp", b"d"),
            ("d.json", b"[1]"),
            ("e.txt", b"alone"),
            ("f.npy", b""),
            ("LICENSE", b""),
        ],
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("g.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    media, listing = listed(path, taken=frozenset({"caption"}))
    assert [(entry.uri.partition("#")[2], entry.kind, entry.caption, entry.label) for entry in media] == [
        ("a.jpg", MediaKind.IMAGE, "both", None),
        ("a.seg.png", MediaKind.IMAGE, "both", None),
        ("a.mp4", MediaKind.VIDEO, "both", None),
        ("b.webp", MediaKind.IMAGE, "of json", "3"),
        ("c.webp", MediaKind.IMAGE, "of txt", None),
        ("d.webp", MediaKind.IMAGE, None, None),
    ]
    assert [dict(entry.columns) for entry in media[3:]] == [{"x": 1}, {"media_caption": "of json"}, {}]
    assert listing.ignored == {
        HIDDEN: 1,
        "npy": 1,
        "txt": 1,
        NO_EXTENSION: 1,
        NOT_A_FILE: 1,
        "json that is no object": 1,
    }


def test_long_names_and_large_members(tmp_path):
    path = tmp_path / "a.tar"
    name = "x" * 200 + "/é.jpg"
    write_members(path, [(name, JPEG * 1000), ("b.jpg", JPEG)])
    media, _ = listed(path)
    assert [entry.uri for entry in media] == [f"{path}#{name}", f"{path}#b.jpg"]
    with MediaOpener() as opener:
        assert [opener.read(entry, 10**6) for entry in media] == [JPEG * 1000, JPEG]


def assert_only_the_beginning_is_listed(path, whole):
    """What stands before the damage is media, and the damage is told."""
    (path.parent / "b.jpg").write_bytes(JPEG)
    media, listing = listed(path.parent)
    assert media[-1].uri == str(path.parent / "b.jpg")
    assert [entry.uri for entry in media[:-1]] == [entry.uri for entry in whole[: len(media) - 1]]
    assert len(media) - 1 < len(whole)
    assert listing.damaged[str(path)].reason == Reason.CORRUPT


@pytest.mark.parametrize("where", [0.3, 0.9, 0.9999])
def test_a_tar_that_is_cut_off_gives_what_stands_before_the_cut(tmp_path, samples, where):
    path = tmp_path / "a.tar"
    write_samples(path, samples)
    whole, _ = listed(path)
    data = path.read_bytes()
    content = len(data.rstrip(b"\0")) // 512 * 512 + 512
    path.write_bytes(data[: int(content * where)])
    assert_only_the_beginning_is_listed(path, whole)


def test_a_tar_with_a_damaged_header_gives_what_stands_before_it(tmp_path, samples):
    path = tmp_path / "a.tar"
    write_samples(path, samples)
    whole, _ = listed(path)
    data = bytearray(path.read_bytes())
    place = data.find(b"day/010.jpg")
    data[place + 100 : place + 140] = b"\xff" * 40
    path.write_bytes(data)
    assert_only_the_beginning_is_listed(path, whole)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_compressed_tars_are_refused(tmp_path, samples, name):
    path = tmp_path / name
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match="compressed tar gives no random access"):
        listed(path)


def test_a_tar_without_media(tmp_path):
    write_members(tmp_path / "a.tar", [("a.npy", b"1")])
    with pytest.raises(ValueError, match=r"holds no media \(found 1 of npy\)"):
        listed(tmp_path / "a.tar")


def hub_schema(name):
    """The hub's layout of an image or video feature."""
    return pa.field(name, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.mark.parametrize(("name", "body"), [("image", JPEG), ("video", MP4)], ids=["image", "video"])
@pytest.mark.parametrize("row_group_size", [1, 7, 100])
def test_every_row_of_a_hub_data_set(tmp_path, name, body, row_group_size):
    path = tmp_path / "train-00000.parquet"
    bodies = [body + bytes([index]) for index in range(20)]
    table = pa.table(
        {
            name: pa.array([{"bytes": body, "path": None} for body in bodies], hub_schema(name).type),
            "label": pa.array(range(20), pa.int64()),
            "caption": [f"caption {index}" for index in range(20)],
            "score": [index / 4 for index in range(20)],
        }
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    media, listing = listed(path)
    assert [entry.uri for entry in media] == [f"{path}#row={index}" for index in range(20)]
    assert {entry.kind for entry in media} == {MediaKind(name)}
    assert [entry.label for entry in media] == [str(index) for index in range(20)]
    assert [(entry.caption, dict(entry.columns)) for entry in media] == [
        (f"caption {index}", {"score": index / 4}) for index in range(20)
    ]
    assert listing.column_types == {"score": "float64"}
    with MediaOpener() as opener:
        assert [opener.read(entry, 1000) for entry in media] == bodies


def test_bytes_path_or_neither_in_one_column(tmp_path):
    path = tmp_path / "a.parquet"
    cells = [
        {"bytes": JPEG, "path": "fox/1.jpg"},
        {"bytes": None, "path": "owl/2.mp4"},
        {"bytes": None, "path": None},
        None,
        {"bytes": MP4, "path": "3.mp4"},
    ]
    pq.write_table(pa.table({"image": pa.array(cells, hub_schema("image").type)}), path)
    media, listing = listed(path, labels_from_folders=True)
    assert [(entry.uri, entry.kind, entry.container, entry.label) for entry in media] == [
        (f"{path}#row=0", MediaKind.IMAGE, str(path), "fox"),
        (str(tmp_path / "owl/2.mp4"), MediaKind.VIDEO, None, "owl"),
        (f"{path}#row=4", MediaKind.VIDEO, str(path), None),
    ]
    assert listing.ignored == {NO_MEDIA: 2}


def test_the_first_bytes_tell_the_kind_where_no_name_does(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"bytes": [None, MP4, MP4], "n": [0, 1, 2]}), path)
    media, _ = listed(path)
    assert [(entry.kind, entry.offset, entry.columns) for entry in media] == [
        (MediaKind.VIDEO, 1, {"n": 1}),
        (MediaKind.VIDEO, 2, {"n": 2}),
    ]
    pq.write_table(pa.table({"bytes": [b"????"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet, row 0: bytes without a name in column 'bytes'"):
        listed(path)
    assert listed(path, names=ColumnNames(kind="image"))[0][0].kind is MediaKind.IMAGE


def test_a_column_of_urls(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"URL": ["http://h/1.jpg", None, "b/2.mp4"], "TEXT": ["a", "b", "c"]}), path)
    media, listing = listed(path)
    assert [(entry.uri, entry.caption, entry.container) for entry in media] == [
        ("http://h/1.jpg", "a", None),
        (str(tmp_path / "b/2.mp4"), "c", None),
    ]
    assert listing.ignored == {NO_MEDIA: 1}


def test_the_wanted_column_is_opened(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [JPEG], "photo": [JPEG + b"photo"], "n": [1]}), path)
    (media,), listing = listed(path, names=ColumnNames(media="photo"))
    assert media.uri == f"{path}#row=0,column=photo"
    assert media.columns == {"n": 1}
    assert listing.ignored == {"column image: bytes": 1}
    with MediaOpener() as opener:
        assert opener.read(media, 1000) == JPEG + b"photo"
    for name in ("n", "nowhere"):
        with pytest.raises(ValueError, match=f"no column {name} with bytes"):
            listed(path, names=ColumnNames(media=name))


def test_values_of_all_types_become_json(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "url": ["s3://b/1.jpg"],
            "when": pa.array([1], pa.timestamp("ns")),
            "zoned": pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("us", "UTC")),
            "day": [datetime.date(2020, 1, 2)],
            "price": [decimal.Decimal("1.50")],
            "word": pa.array(["a"]).dictionary_encode(),
            "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
            "nested": [{"day": datetime.date(2020, 1, 2), "list": [1.5, None]}],
            "big": pa.array([2**64 - 1], pa.uint64()),
            "not": [float("nan")],
            "nothing": pa.nulls(1),
            "thumbnails": [[{"bytes": b"x"}]],
        }
    )
    pq.write_table(table, path)
    (media,), listing = listed(path)
    assert media.columns == {
        "when": "1970-01-01 00:00:00.000000001",
        "zoned": "2020-01-01 00:00:00.000000Z",
        "day": "2020-01-02",
        "price": "1.50",
        "word": "a",
        "pairs": [["a", 1]],
        "nested": {"day": "2020-01-02", "list": [1.5, None]},
        "big": 2**64 - 1,
        "not": None,
        "nothing": None,
    }
    assert listing.column_types["big"] == listing.column_types["nested"] == "json"
    assert listing.column_types["nothing"] == listing.column_types["when"] == "string"
    assert listing.ignored == {"column thumbnails: bytes": 1}


def test_tables_without_media(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "index.parquet")
    (tmp_path / "a.jpg").write_bytes(JPEG)
    media, listing = listed(tmp_path)
    assert len(media) == 1
    assert listing.ignored == {"parquet without a column of media": 1}
    with pytest.raises(ValueError, match=r"index\.parquet: no column of a name such as .*\['n'\]"):
        listed(tmp_path / "index.parquet")


@pytest.mark.parametrize("body", [b"", b"no parquet at all", b"PAR1" + bytes(100)], ids=["empty", "text", "magic"])
def test_damaged_parquet_files_are_told(tmp_path, body):
    (tmp_path / "a.parquet").write_bytes(body)
    media, listing = listed(tmp_path)
    assert media == []
    assert listing.damaged[str(tmp_path / "a.parquet")].reason == Reason.CORRUPT
