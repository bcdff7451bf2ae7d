"""Claims: two runs on one output, and the second is refused with the name of the first."""

import contextlib
import fcntl
import io
import json
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.store.faults import StorageError
from pipeline.store.files import Folder, named_if_full
from pipeline.store.lease import LEASE_SECONDS, Claim, Lease
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLAIM_FILE


@contextlib.contextmanager
def claim(folder: Folder, *, break_claim: bool = False, lease_seconds: float = LEASE_SECONDS) -> Iterator[Claim]:
    """Hold a folder for the length of a run.

    On a local file system the claim is a lock that the kernel drops when its holder dies, however it dies. On an object
    store it is a lease (`pipeline.store.lease`): a killed holder's runs out.

    Args:
        folder: The folder.
        break_claim: On an object store, take over from whoever holds the folder now, dead or alive.
        lease_seconds: Without a renewal, after which the holder of a folder on an object store counts as dead.

    Raises:
        RunRefusedError: Another run holds the folder; or, as the block ends, has taken it over meanwhile.
        FullDiskError: The disk has no room for the claim.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    if folder.is_local:
        with _local_claim(folder, json.dumps(holder).encode()):
            yield Claim()
        return
    document = json.dumps(holder | {"nonce": secrets.token_hex(8)}).encode()
    lease = Lease(folder, document, lease_seconds=lease_seconds)
    lease.acquire(break_claim=break_claim)
    try:
        yield lease
        lease.confirm()
    except StorageError:
        lease.stop()  # a server that fails would be asked to remove the claim for minutes; it runs out by itself
        raise
    except BaseException:
        lease.release()
        raise
    lease.release()


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
            raise RunRefusedError(f"{folder.url} is held by another run: {name}. Wait for it, or stop it.") from None
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
