"""Clip shards: the same bytes each time, the same pixels back, and no harm from a hostile tar."""

import gc
import io
import json
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip, read_clips, read_coded, read_keys

CODECS = (PixelCodec(name="raw"), PixelCodec(name="png"), PixelCodec())


def write(clips, codec):
    stream = io.BytesIO()
    writer = ClipShardWriter(stream)
    for clip in clips:
        writer.write(code_clip(clip, codec))
    writer.close()
    assert writer.num_clips == len(clips)
    return stream.getvalue()


def read(data):
    return list(read_clips(io.BytesIO(data), where="shard.tar"))


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(entry, tar.extractfile(entry).read() if entry.isfile() else b"") for entry in tar]


def tar_of(entries):
    """A tar of (name or header, bytes)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for entry, data in entries:
            header = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return stream.getvalue()


def npy(array, allow_pickle=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


@pytest.fixture(scope="module")
def clips(photograph, clip_metadata):
    """A moving clip, an image and an oblong clip, cut out of a photograph."""
    moving = np.concatenate([photograph[:, 4 * step :, 8 * step :][:, :64, :64] for step in range(12)])
    oblong = photograph[:, :16, :24].repeat(2, axis=0)
    return [
        Clip(pixels=pixels, metadata=clip_metadata(key, pixels.shape, media_uri=f"/media/ü {key}.mp4"))
        for key, pixels in (("moving_1", moving), ("still", photograph), ("oblong-", oblong))
    ]


@pytest.fixture
def clip(clips):
    return clips[2]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_the_same_clips_are_the_same_bytes(clips, codec):
    assert write(clips, codec) == write(clips, codec)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_members_carry_no_time_and_no_user(clips, codec):
    entries = [entry for entry, _ in members(write(clips, codec))]
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o444)}
    assert all(entry.isreg() and not entry.pax_headers for entry in entries)


def test_members_of_a_clip_stand_in_frame_order_before_its_metadata(clips):
    names = [entry.name for entry, _ in members(write(clips, PixelCodec()))]
    assert names[:13] == [f"moving_1.{index:03d}.jpg" for index in range(12)] + ["moving_1.json"]
    assert names[13:] == ["still.000.jpg", "still.json", "oblong-.000.jpg", "oblong-.001.jpg", "oblong-.json"]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_clips_come_back_in_order_with_their_metadata(clips, codec):
    found = read(write(clips, codec))
    assert [clip.metadata for clip in found] == [clip.metadata for clip in clips]
    assert [clip.pixels.shape for clip in found] == [clip.pixels.shape for clip in clips]
    assert read_keys(io.BytesIO(write(clips, codec)), where="") == ["moving_1", "still", "oblong-"]


@pytest.mark.parametrize("codec", CODECS[:2], ids=lambda codec: codec.name)
def test_png_and_raw_lose_nothing(clips, codec):
    for clip, found in zip(clips, read(write(clips, codec)), strict=True):
        assert np.array_equal(clip.pixels, found.pixels)


@pytest.mark.parametrize(
    ("codec", "floor_db"), [(PixelCodec(), 40.0), (PixelCodec(quality=50, subsampling="420"), 30.0)]
)
def test_jpeg_stays_near_the_photograph(clips, codec, floor_db):
    found = read(write(clips, codec))[1]
    error = np.square(clips[1].pixels.astype(float) - found.pixels).mean()
    assert 10 * np.log10(255**2 / error) > floor_db


def test_pixels_that_do_not_lie_in_one_block_are_written_as_they_look(clip):
    turned = clip.pixels[:, ::-1, :, ::-1]
    (found,) = read(write([Clip(pixels=turned, metadata=clip.metadata)], PixelCodec(name="raw")))
    assert np.array_equal(found.pixels, turned)
    strided = Clip(pixels=turned, metadata=clip.metadata)
    packed = Clip(pixels=np.ascontiguousarray(turned), metadata=clip.metadata)
    columns_first = Clip(pixels=np.asfortranarray(turned), metadata=clip.metadata)
    for codec in CODECS:
        assert write([strided], codec) == write([packed], codec) == write([columns_first], codec)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_clips_copied_as_they_stand_make_the_same_bytes(clips, codec):
    data, copy = write(clips, codec), io.BytesIO()
    writer = ClipShardWriter(copy)
    for coded in read_coded(io.BytesIO(data), where="shard.tar"):
        writer.write(coded)
    writer.close()
    assert copy.getvalue() == data


def test_a_shard_of_no_clips_reads_as_none():
    assert read(write([], PixelCodec())) == []


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the collector
def test_the_public_reader_reads_our_tar(clips, tmp_path):
    (tmp_path / "shard.tar").write_bytes(write(clips, PixelCodec(name="png")))
    dataset = webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False).decode("rgb8")
    samples = list(dataset)
    gc.collect()
    assert [sample["__key__"] for sample in samples] == ["moving_1", "still", "oblong-"]
    for clip, sample in zip(clips, samples, strict=True):
        frames = [sample[f"{index:03d}.png"] for index in range(len(clip.pixels))]
        assert np.array_equal(np.stack(frames), clip.pixels)
        assert sample["json"]["media_uri"] == clip.metadata.media_uri


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/b", "a.b", "", "..", "a\n"])
def test_a_hostile_key_is_not_written(clip, clip_metadata, key):
    hostile = Clip(pixels=clip.pixels, metadata=clip_metadata(key, clip.pixels.shape))
    with pytest.raises(ValueError, match="clip key: got"):
        write([hostile], PixelCodec())


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_not_written(clip, pixels):
    with pytest.raises(ValueError, match=r"clip pixels: got .* expected uint8 \[T, H, W, 3\]"):
        write([Clip(pixels=pixels, metadata=clip.metadata)], PixelCodec())


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/b.json", "noextension", ".json", "a b.json", "é.json"])
def test_a_member_with_a_hostile_name_is_refused(clip, name):
    with pytest.raises(ValueError, match=r"shard\.tar: member .* is not KEY\.EXTENSION"):
        read(tar_of([(name, b"{}")]))
    with pytest.raises(ValueError, match=r"shard\.tar: member"):
        read_keys(io.BytesIO(tar_of([(name, b"{}")])), where="shard.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files_are_refused(kind):
    header = tarfile.TarInfo("clip.json")
    header.type, header.linkname = kind, "/etc/passwd"
    with pytest.raises(ValueError, match="is not KEY"):
        read(tar_of([(header, b"")]))


def with_raw(clip, data):
    document = json.dumps(clip.metadata.to_json()).encode()
    return tar_of([(f"{clip.metadata.key}.npy", data), (f"{clip.metadata.key}.json", document)])


def test_the_crafted_tar_is_read_where_it_is_sound(clip):
    (found,) = read(with_raw(clip, npy(clip.pixels)))
    assert np.array_equal(found.pixels, clip.pixels)


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_is_refused_and_never_run(clip, capsys):
    with pytest.raises(ValueError, match=r"shard\.tar: clip 'oblong-' cannot be read"):
        read(with_raw(clip, npy(np.array([Bomb()], dtype=object), allow_pickle=True)))
    assert "unpickled" not in capsys.readouterr().out


def test_an_array_of_another_kind_is_refused(clip):
    archive = io.BytesIO()
    np.savez(archive, clip.pixels)
    unsigned = clip.pixels
    for data in (
        npy(unsigned.astype(np.float32)),
        npy(unsigned.astype(np.int8)),
        npy(unsigned[:1]),
        npy(np.asfortranarray(unsigned)),
        npy(np.array(5)),
        archive.getvalue(),
        b"",
        b"\x80\x04N.",
        npy(unsigned)[:-1],
    ):
        with pytest.raises(ValueError, match=r"shard\.tar: clip 'oblong-'"):
            read(with_raw(clip, data))


@pytest.mark.parametrize("document", [b"", b"5", b"null", b"[]", b"{}", b"\xff", b'"key"', b'{"key": "oblong-"}'])
def test_metadata_that_is_none_is_refused(clip, document):
    with pytest.raises(ValueError, match=r"shard\.tar: clip 'oblong-' cannot be read"):
        read(tar_of([("oblong-.npy", npy(clip.pixels)), ("oblong-.json", document)]))


def test_metadata_of_another_clip_is_refused(clip, clips):
    document = json.dumps(clips[1].metadata.to_json()).encode()
    with pytest.raises(ValueError, match=r"clip 'oblong-' holds pixels"):
        read(tar_of([("oblong-.npy", npy(clip.pixels)), ("oblong-.json", document)]))


def test_frames_of_another_kind_are_refused(clip):
    def picture(mode, size=(24, 16), form="PNG"):
        stream = io.BytesIO()
        Image.new(mode, size).save(stream, form)
        return stream.getvalue()

    document = ("oblong-.json", json.dumps(clip.metadata.to_json()).encode())
    good = ("oblong-.000.png", picture("RGB"))
    assert len(read(tar_of([good, ("oblong-.001.png", picture("RGB")), document]))) == 1
    for name, data in (
        ("001.png", picture("L")),
        ("001.png", picture("RGBA")),
        ("001.png", picture("RGB", (16, 24))),
        ("001.png", picture("RGB", form="BMP")),
        ("001.jpg", picture("RGB")),
        ("001.png", b""),
        ("001.exe", b"MZ"),
    ):
        with pytest.raises(ValueError, match=r"shard\.tar: clip 'oblong-'"):
            read(tar_of([good, (f"oblong-.{name}", data), document]))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_tar_that_is_cut_off_anywhere_is_refused(clip, clips, clip_metadata, codec):
    small = [Clip(pixels=clip.pixels, metadata=clip_metadata(key, clip.pixels.shape)) for key in ("a", "b")]
    data = write(small, codec)
    content_end = len(data.rstrip(b"\0"))
    for length in [*range(0, content_end, 256), content_end]:
        with pytest.raises(ValueError, match=r"shard\.tar"):
            read(data[:length])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_flipped_byte_is_refused_or_changes_one_value(clip, clip_metadata, codec):
    # Whatever a byte does, it loses no clip and raises nothing but ValueError; that bytes are whole the sha256 says.
    small = [Clip(pixels=clip.pixels[:, :8, :8], metadata=clip_metadata(key, (2, 8, 8, 3))) for key in ("a", "b")]
    data = bytearray(write(small, codec))
    refused = 0
    positions = range(0, len(bytes(data).rstrip(b"\0")), 3)
    for position in positions:
        data[position] ^= 0x41
        try:
            assert len(read(bytes(data))) == 2, f"byte {position} lost a clip"
        except ValueError:
            refused += 1
        data[position] ^= 0x41
    assert refused > len(positions) // 4
    assert len(read(bytes(data))) == 2


@pytest.mark.parametrize("setting", [{"name": "webp"}, {"quality": 0}, {"quality": 101}])
def test_a_codec_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match="codec"):
        PixelCodec(**setting)


def test_what_cannot_change_a_byte_is_not_part_of_the_codec():
    assert PixelCodec(name="png", quality=50).to_json() == PixelCodec(name="png").to_json()
    assert PixelCodec(quality=50).to_json() != PixelCodec().to_json()
