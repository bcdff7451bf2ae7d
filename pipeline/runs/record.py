"""Run records: the resolved config of each start, and what it did and how long that took."""

import dataclasses
import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version

from pipeline.store.documents import write_json
from pipeline.store.faults import StorageError
from pipeline.store.files import Folder
from pipeline.store.lease import Claim
from schemas.metadata import RUNS_FOLDER

_PACKAGES = ("vitok-latents", "ray", "torch", "numpy", "pyarrow", "av", "pillow", "simplejpeg", "webdataset")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StartClock:
    """When a command began and when its job was called: readings of `time.perf_counter`."""

    started: float = dataclasses.field(default_factory=time.perf_counter)
    called: float = dataclasses.field(default_factory=time.perf_counter)


class RunRecord:
    """One start of a job on a folder: `runs/ID/config.json` at the start, `runs/ID/record.json` at the end."""

    def __init__(
        self, folder: Folder, *, job: str, config: object, claim: Claim, clock: StartClock | None = None
    ) -> None:
        self.claim = claim
        """The run's hold on its folder."""
        self._clock = clock or StartClock()
        self.seconds: dict[str, float] = {
            "imports": self._clock.called - self._clock.started,
            "open": time.perf_counter() - self._clock.called,  # the inputs, and what reads them
        }
        """Wall seconds of the driver by phase."""
        self.worker_seconds: dict[str, float] = {}
        """Seconds of all workers together by step."""
        self.counts: dict[str, object] = {}
        self._folder = folder
        self._job = job
        self._started = datetime.now(UTC)
        self.name = f"{RUNS_FOLDER}/{self._started:%Y%m%dT%H%M%S}-{self._started.microsecond:06d}-{os.getpid()}"
        assert dataclasses.is_dataclass(config)
        assert not isinstance(config, type)
        resolved = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        write_json(folder, f"{self.name}/config.json", {"job": job, "config": resolved})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def add_worker_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add what a worker spent, by step."""
        for name, value in seconds.items():
            self.worker_seconds[name] = self.worker_seconds.get(name, 0.0) + value

    def close(self, *, error: BaseException | None = None) -> None:
        """Write the record; called once, however the run ended."""
        self.seconds["total"] = time.perf_counter() - self._clock.started
        write_json(
            self._folder,
            f"{self.name}/record.json",
            {
                "job": self._job,
                "started": self._started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "versions": {name: version(name) for name in _PACKAGES},
                "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
                "worker_seconds": {name: round(value, 4) for name, value in self.worker_seconds.items()},
                "counts": self.counts,
                "error": None if error is None else f"{type(error).__name__}: {error}",
            },
        )


@contextmanager
def recorded(
    folder: Folder, *, job: str, config: object, claim: Claim, clock: StartClock | None = None
) -> Iterator[RunRecord]:
    """A run record that is written whether the run ends well or not."""
    record = RunRecord(folder, job=job, config=config, claim=claim, clock=clock)
    try:
        yield record
    except BaseException as error:
        # Where a server's faults ended the run, it would be tried for minutes more; and they hide no other error.
        if folder.is_local or not isinstance(error, StorageError):
            with suppress(StorageError):
                record.close(error=error)
        error.add_note(f"The run had begun; its record is {folder.path(record.name)}.")
        raise
    record.close()
