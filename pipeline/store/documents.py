"""JSON as the stores write it: one canonical form, so that equal values are equal bytes."""

import hashlib
import json
from collections.abc import Mapping
from typing import cast

from pipeline.store.files import FileRecord, Folder


def canonical_json(value: object) -> bytes:
    """Sorted keys, no NaN, newline at the end.

    Raises:
        ValueError: The value holds NaN or Inf.
    """
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def fingerprint(value: object) -> str:
    """Sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def read_json(folder: Folder, relative: str) -> dict[str, object]:
    """An object from a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a JSON object; the file is named.
    """
    try:
        value = json.loads(folder.read_bytes(relative))
    except ValueError as error:
        raise ValueError(f"{folder.path(relative)}: is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{folder.path(relative)}: holds {type(value).__name__}, expected a JSON object")
    return cast(dict[str, object], value)


def write_json(folder: Folder, relative: str, value: object) -> FileRecord:
    """Write a value as canonical JSON, whole or not at all."""
    return folder.write_bytes(relative, canonical_json(value))


def sealed(document: Mapping[str, object]) -> dict[str, object]:
    """A document with the hash of the rest of it under "seal": a changed digit anywhere is then found."""
    rest = {name: value for name, value in document.items() if name != "seal"}
    return rest | {"seal": fingerprint(rest)}
