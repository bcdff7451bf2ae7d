"""Columns of an input's rows: which is the caption, which the label, what kind the media is; the rest pass through."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Literal

from pipeline.media.cells import BYTES_COLUMNS, NAME_COLUMNS, pick_column
from pipeline.media.source import KINDS, Media, MediaKind, extension_of

ColumnType = Literal["bool", "int64", "float64", "string", "json"]
"""What holds every value of a pass-through column; "json" holds any, as text."""

HIDDEN = "hidden"
"""Key of `MediaListing.ignored` for files in or under a name that starts with a dot."""
NO_EXTENSION = "no extension"
"""Key of `MediaListing.ignored` for files without an extension."""
NOT_A_FILE = "not a file"
"""Key of `MediaListing.ignored` for sockets, pipes, links that lead nowhere, and links to folders: none is followed."""
NOT_UTF8 = "name is not UTF-8"
"""Key of `MediaListing.ignored` for files and rows whose names no table on disk can hold."""
NO_MEDIA = "row without media"
"""Key of `MediaListing.ignored` for rows that name no media and hold none."""

_CAPTIONS = ("caption", "text", "txt", "prompt")
_LABELS = ("label", "class", "cls")
_PREFIX = "media_"
_MAX_COLUMNS = 1000
_INT64 = range(-(2**63), 2**63)
_KIND_WORDS = {
    "image": MediaKind.IMAGE,
    "img": MediaKind.IMAGE,
    "photo": MediaKind.IMAGE,
    "picture": MediaKind.IMAGE,
    "video": MediaKind.VIDEO,
    "clip": MediaKind.VIDEO,
    "movie": MediaKind.VIDEO,
}
_MAGIC = {
    b"\xff\xd8\xff": MediaKind.IMAGE,
    b"\x89PNG": MediaKind.IMAGE,
    b"GIF8": MediaKind.IMAGE,
    b"BM": MediaKind.IMAGE,
    b"II*\0": MediaKind.IMAGE,
    b"MM\0*": MediaKind.IMAGE,
    b"\x1aE\xdf\xa3": MediaKind.VIDEO,  # Matroska, WebM
    b"FLV": MediaKind.VIDEO,
    b"OggS": MediaKind.VIDEO,
    b"\0\0\1\xba": MediaKind.VIDEO,  # MPEG program stream
    b"\0\0\1\xb3": MediaKind.VIDEO,  # MPEG elementary stream
    b"0&\xb2u": MediaKind.VIDEO,  # ASF
}
_TRANSPORT_PACKET_BYTES = 188
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnNames:
    """Which columns of lists, Parquet files and JSON members mean what; None finds them by their usual names."""

    media: str | None = None
    """The media's bytes, URL or path."""
    caption: str | None = None
    label: str | None = None
    kind: Literal["image", "video"] | None = None
    """What media are where neither extension, nor bytes, nor the column's name tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What a row says of its media."""

    caption: str | None
    label: str | None
    columns: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Roles:
    media: str | None
    caption: str | None
    label: str | None


class ColumnReader:
    """Rows of all inputs to captions, labels and pass-through columns; keeps count of what is met on the way."""

    def __init__(self, names: ColumnNames, *, taken: frozenset[str] = frozenset()) -> None:
        """Take the columns' names.

        Args:
            names: Which column means what.
            taken: Names of the store's own columns; a pass-through column of such a name gets "media_" before it.
        """
        self.names = names
        self.ignored: Counter[str] = Counter()
        """What is no media, by `HIDDEN` and so on, or by extension."""
        self._taken = taken
        self._types: dict[str, ColumnType | None] = {}
        self._origins: dict[str, str] = {}
        self._seen: set[str] = set()
        self._keys: tuple[str, ...] | None = None
        self._roles = _Roles(media=None, caption=None, label=None)

    @property
    def types(self) -> dict[str, ColumnType]:
        """Type of each pass-through column so far, by name; one that was always null is "string"."""
        return {name: kind or "string" for name, kind in sorted(self._types.items())}

    def unseen(self) -> list[str]:
        """Names that were asked for and stood in no row."""
        wanted = (self.names.media, self.names.caption, self.names.label)
        return [name for name in wanted if name is not None and name not in self._seen]

    def media_of(self, row: Mapping[str, object]) -> str | None:
        """Column of a list's row that names the media."""
        return self._roles_of(row).media

    def saw(self, name: str | None) -> None:
        """Remember that a column was there."""
        if name is not None:
            self._seen.add(name)

    def describe(
        self, row: Mapping[str, object], *, media: str | None, where: str, caption: str | None, label: str | None
    ) -> Described:
        """Caption, label and pass-through columns of a row.

        Args:
            row: Values by column.
            media: The column that gives the media; it is not passed through.
            where: Of the row, for errors.
            caption: Given from elsewhere: the row's own then passes through.
            label: Likewise.

        Raises:
            ValueError: Two columns would have one name, or there are too many.
        """
        roles = self._roles_of(row)
        left_out = {media}
        if caption is None and roles.caption is not None and roles.caption != media:
            caption = _as_text(row[roles.caption])
            left_out.add(roles.caption)
        if label is None and roles.label is not None and roles.label != media:
            label = _as_text(row[roles.label])
            left_out.add(roles.label)
        columns: dict[str, object] = {}
        for name, value in row.items():
            if name not in left_out:
                kept = self._renamed(clean(name), where)
                columns[kept] = json_value(value)
                self._types[kept] = _wider(self._types.get(kept), columns[kept])
        return Described(caption=caption, label=label, columns=columns)

    def kind_of(self, place: str, *, column: str | None, where: str, head: bytes = b"") -> MediaKind:
        """Kind of a media by its name's extension, else by its first bytes, its column's name, or `ColumnNames.kind`.

        Raises:
            ValueError: None of them tells.
        """
        kind = KINDS.get(extension_of(place)) or _kind_by_magic(head) or _kind_by_column(column)
        if kind is None and self.names.kind is not None:
            kind = MediaKind(self.names.kind)
        if kind is None:
            named = f"a name such as {place[:200]!r}" if place else "bytes without a name"
            raise ValueError(
                f"{where}: {named} in column {column!r} tells neither image nor video. Say which kind the media are, "
                "or leave the row out"
            )
        return kind

    def _roles_of(self, row: Mapping[str, object]) -> _Roles:
        keys = tuple(row)
        if keys != self._keys:
            self._keys = keys
            self._seen.update({self.names.media, self.names.caption, self.names.label} & set(keys))  # type: ignore[arg-type]
            self._roles = _Roles(
                media=_role(self.names.media, (*BYTES_COLUMNS, *NAME_COLUMNS), keys),
                caption=_role(self.names.caption, _CAPTIONS, keys),
                label=_role(self.names.label, _LABELS, keys),
            )
        return self._roles

    def _renamed(self, name: str, where: str) -> str:
        kept = _PREFIX + name if name in self._taken else name
        known = self._origins.get(kept)
        if known == name:
            return kept
        if known is not None or kept in self._taken:
            other = "a column of the store" if known is None else f"column {known!r}"
            raise ValueError(f"{where}: column {name!r} would be stored as {kept!r}, as {other} is. Rename it")
        if len(self._origins) == _MAX_COLUMNS:
            raise ValueError(f"{where}: column {name!r} is one more than {_MAX_COLUMNS}. Put them into one, as JSON")
        self._origins[kept] = name
        return kept


def json_value(value: object) -> object:
    """A value as JSON holds it: times and other objects as text, NaN and infinities as null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(name)): json_value(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [json_value(entry) for entry in value]
    return value.isoformat() if isinstance(value, datetime | date | time) else clean(str(value))


def clean(text: str) -> str:
    """A text that UTF-8 can hold: bytes that were none, and halves of a character, become U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def why_hidden(path: str) -> str | None:
    """Key under which a path is ignored for its name's sake: `HIDDEN` or `NOT_UTF8`."""
    if any(part.startswith(".") for part in path.split("/")):
        return HIDDEN
    try:
        path.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    return None


def folder_label(path: str) -> str | None:
    """Name of the folder that a path or URL stands in."""
    parts = path.partition("?")[0].split("/") if "://" in path else path.split("/")
    return parts[-2] or None if len(parts) > 1 else None


def named_media(name: str, *, described: Described, kind: MediaKind, labels_from_folders: bool) -> Media:
    """A media that a row names: nothing is known of the file itself."""
    label = folder_label(name) if labels_from_folders and described.label is None else described.label
    return Media(
        uri=name,
        kind=kind,
        size_bytes=None,
        version="",
        label=label,
        caption=described.caption,
        columns=described.columns,
    )


def _role(wanted: str | None, candidates: Sequence[str], keys: Sequence[str]) -> str | None:
    if wanted is not None:
        return wanted if wanted in keys else None
    return pick_column(candidates, keys)


def _as_text(value: object) -> str | None:
    """A caption or label as text; nothing where it is empty, for CSV has no other null."""
    plain = json_value(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return None if plain is None or not text else text


def _wider(known: ColumnType | None, value: object) -> ColumnType | None:
    """Type of a column that holds a further value."""
    if value is None:
        return known
    kind: ColumnType
    if isinstance(value, bool):
        kind = "bool"
    elif isinstance(value, int):
        kind = "int64" if value in _INT64 else "json"
    elif isinstance(value, float):
        kind = "float64"
    else:
        kind = "string" if isinstance(value, str) else "json"
    if known is None or known == kind:
        return kind
    return "float64" if {known, kind} == {"int64", "float64"} else "json"


def _kind_by_magic(head: bytes) -> MediaKind | None:
    if head[4:8] == b"ftyp":
        return MediaKind.IMAGE if head[8:12] in _IMAGE_BRANDS else MediaKind.VIDEO
    if head[:4] == b"RIFF":
        return {b"WEBP": MediaKind.IMAGE, b"AVI ": MediaKind.VIDEO}.get(head[8:12])
    if head[:1] == head[_TRANSPORT_PACKET_BYTES : _TRANSPORT_PACKET_BYTES + 1] == b"G":
        return MediaKind.VIDEO
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _kind_by_column(column: str | None) -> MediaKind | None:
    name = (column or "").lower()
    return KINDS.get(name) or next((kind for word, kind in _KIND_WORDS.items() if word in name), None)
