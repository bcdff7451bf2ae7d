"""Leases: claims on object stores, which their holder renews and others may succeed to once nobody does.

A claim is a chain of files that are put only if absent and never changed. `claim.json` says who holds the folder;
`claim/ID.json` says who succeeded the holder whose file has that ID, the hash of its bytes; the last of the chain
holds. Each holder renews `claim/ID.beat`, which nobody else writes. Who wants the folder watches the beat for the
length of a lease by its own clock, so that clocks of two machines are never compared; then puts the next file of the
chain, which the server gives to one of several. A holder that finds another behind it in the chain has lost the folder.

On a server without an atomic `If-None-Match: *`, two that start within one request of each other may both begin; the
one whose file was overwritten finds out at its next look, a sixth of a lease later or before it closes the store. Until
then both write the same bytes under the same names, for another plan is refused.
"""

import hashlib
import logging
import threading
import time
from dataclasses import dataclass

from pipeline.store.faults import StorageError
from pipeline.store.files import Folder
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLAIM_FILE

LEASE_SECONDS = 60.0
"""A holder renews six times as often. So a second start is refused within ten seconds, and a live holder that its
server fails for most of a minute, which is as long as a request is tried again, is not taken for dead."""

_RENEWALS = 6
_LOOKS = 12
"""Of who waits, in one lease, evenly spaced: time spent in trying a request again does not count as silence."""

_FOLDER = "claim"
logger = logging.getLogger(__name__)


class Claim:
    """A folder that is held. This one by a lock, which the kernel keeps as long as the process lives."""

    def check(self) -> None:
        """Make sure that the folder was still held at the last look; costs nothing.

        Raises:
            RunRefusedError: Another run has taken it over.
        """

    def confirm(self) -> None:
        """Look, and make sure that the folder is held now.

        Raises:
            RunRefusedError: Another run has taken it over.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """One file of the chain."""

    document: bytes

    @property
    def name(self) -> str:
        """What its file says, for messages."""
        return self.document.decode(errors="replace")

    @property
    def successor_file(self) -> str:
        return f"{_FOLDER}/{self._id}.json"

    @property
    def beat_file(self) -> str:
        return f"{_FOLDER}/{self._id}.beat"

    @property
    def _id(self) -> str:
        return hashlib.sha256(self.document).hexdigest()[:16]


class Lease(Claim):
    """A folder of an object store that this process holds, from `acquire` to `release`, or for a lease after `stop`."""

    def __init__(self, folder: Folder, document: bytes, *, lease_seconds: float) -> None:
        """Prepare to hold a folder.

        Args:
            folder: On an object store.
            document: Who this is; differs from that of every other claim.
            lease_seconds: Without a renewal, after which a holder counts as dead.
        """
        self._folder = folder
        self._holder = _Holder(document=document)
        self._lease_seconds = lease_seconds
        self._beats = 0
        self._lost: RunRefusedError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def acquire(self, *, break_claim: bool) -> None:
        """Get hold of the folder and begin to renew the claim.

        Args:
            break_claim: Succeed whoever holds the folder now without waiting for its lease to run out.

        Raises:
            RunRefusedError: Another run holds the folder, and lives.
        """
        broken = _last(self._folder) if break_claim else None
        while True:
            last = _last(self._folder)
            if last is not None and last != broken and not self._outlived(last):
                continue
            file = CLAIM_FILE if last is None else last.successor_file
            mine = self._folder.create(file, self._holder.document) == self._holder.document
            if _last(self._folder) == self._holder:
                break
            if mine:  # behind one who meanwhile left: a file of no chain
                self._folder.remove(file)
        self._beat()
        self._thread.start()

    def check(self) -> None:
        """See `Claim`."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """See `Claim`."""
        last = _last(self._folder)
        if last == self._holder:
            return
        by = f"another run: {last.name}" if last is not None else "another run, which has ended"
        self._lost = RunRefusedError(
            f"{self._folder.url} was taken over by {by}. This run stops, and what it has committed stays: it had not "
            f"renewed its claim for {self._lease_seconds:g} s, or somebody started with --break-claim"
        )
        raise self._lost

    def stop(self) -> None:
        """Renew the claim no more, so that its lease runs out."""
        self._stopped.set()

    def release(self) -> None:
        """Let go of the folder, if it is still held. A claim that cannot be removed runs out by itself."""
        self.stop()
        self._thread.join()
        try:
            if _last(self._folder) == self._holder:
                self._folder.remove(CLAIM_FILE)
                self._folder.remove(_FOLDER)
        except StorageError as error:
            logger.warning("the claim on %s stays behind until its lease runs out: %s", self._folder.url, error)

    def _renew(self) -> None:
        while not self._stopped.wait(self._lease_seconds / _RENEWALS):
            try:
                self.confirm()
                self._beat()
            except RunRefusedError:
                return  # `check` says it
            except StorageError as error:
                logger.warning("the claim on %s is not renewed: %s", self._folder.url, error)

    def _beat(self) -> None:
        self._beats += 1
        self._folder.write_bytes(self._holder.beat_file, str(self._beats).encode())

    def _outlived(self, holder: _Holder) -> bool:
        """Whether a holder has not renewed its claim for a lease; False where it has gone meanwhile.

        Raises:
            RunRefusedError: It has renewed its claim.
        """
        logger.info(
            "%s is held by %s; looking for up to %g s whether that run still lives (--break-claim does not wait)",
            self._folder.url,
            holder.name,
            self._lease_seconds,
        )
        beat = _read(self._folder, holder.beat_file)
        for _ in range(_LOOKS):
            time.sleep(self._lease_seconds / _LOOKS)
            renewed = _read(self._folder, holder.beat_file) != beat
            if _last(self._folder) != holder:
                return False
            if renewed:
                raise RunRefusedError(
                    f"{self._folder.url} is held by another run: {holder.name}. It lives: wait for it, or stop it; "
                    "--break-claim takes the folder from it"
                )
        logger.warning("%s: %s has not renewed its claim, this run takes over", self._folder.url, holder.name)
        return True


def _last(folder: Folder) -> _Holder | None:
    """Who holds a folder: the end of the chain."""
    last = None
    document = _read(folder, CLAIM_FILE)
    while document is not None:
        last = _Holder(document=document)
        document = _read(folder, last.successor_file)
    return last


def _read(folder: Folder, relative: str) -> bytes | None:
    try:
        return folder.read_bytes(relative)
    except FileNotFoundError:
        return None
