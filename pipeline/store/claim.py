"""Claims: two runs on one output, and the second is refused with the name of the first."""

import contextlib
import fcntl
import io
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.store.files import Folder, named_if_full
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLAIM_FILE


@contextlib.contextmanager
def claim(folder: Folder, *, break_claim: bool = False) -> Iterator[None]:
    """Hold a folder for the length of a run.

    On a local file system the claim is a lock that the kernel drops when its holder dies, however it dies. On an object
    store it is an object put only if absent; a killed holder leaves it behind, and `break_claim` takes it over.

    Raises:
        RunRefusedError: Another run holds the folder.
        FullDiskError: The disk has no room for the claim.
    """
    holder = json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    ).encode()
    if folder.is_local:
        with _local_claim(folder, holder):
            yield
    else:
        with _object_claim(folder, holder, break_claim):
            yield


def _refusal(folder: Folder, holder: str, advice: str) -> RunRefusedError:
    return RunRefusedError(f"{folder.url} is held by another run: {holder}. {advice}")


@contextlib.contextmanager
def _local_claim(folder: Folder, holder: bytes) -> Iterator[None]:
    path = Path(folder.path(CLAIM_FILE))
    while True:
        with named_if_full(folder.url, file=CLAIM_FILE):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk refuses would be written once more on close.
            stream = path.open("a+b", buffering=0)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            name = stream.read().decode(errors="replace")
            stream.close()
            raise _refusal(folder, name, "Wait for it, or stop it.") from None
        # Between open and lock a finishing holder may have removed the file: then this lock guards nothing.
        if _is_named(stream, path):
            break
        stream.close()
    with stream:
        try:
            with named_if_full(folder.url, file=CLAIM_FILE):
                stream.truncate(0)
                stream.write(holder)
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_named(stream: io.FileIO, path: Path) -> bool:
    """Whether an open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _object_claim(folder: Folder, holder: bytes, break_claim: bool) -> Iterator[None]:
    path = folder.path(CLAIM_FILE)
    if break_claim:
        folder.remove(CLAIM_FILE)
    try:
        folder.file_system.pipe_file(path, holder, mode="create")
    except OSError:  # FileExistsError by the book; s3fs raises plain OSError for a taken key
        if not folder.exists(CLAIM_FILE):
            raise
        name = folder.read_bytes(CLAIM_FILE).decode(errors="replace")
        raise _refusal(folder, name, "If that run is dead, start again with --break-claim.") from None
    try:
        yield
    finally:
        folder.remove(CLAIM_FILE)
