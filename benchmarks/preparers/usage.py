"""What a command costs: wall seconds, CPU seconds of all its processes, and the largest of them in memory."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INTERVAL_SECONDS = 0.1
_LINGER_SECONDS = 15.0
"""How long daemons may outlive their command before they count as another's."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one run of a command cost."""

    wall_seconds: float
    """From start to end of the command itself."""
    cpu_seconds: float
    """User and system, of the command and all its descendants."""
    peak_mb: float
    """Largest resident size of any one process; shared memory counts in each that maps it."""
    output: str
    """What the command wrote to stdout."""


def metered(command: Sequence[str | Path], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end and say what it cost.

    A process's CPU seconds are read from /proc while it lives and from its parent's account once it is reaped. Neither
    is whole: the first misses a process's last tenth of a second, the second those whose parent reaps without counting
    (Ray's) or dies before them. The larger of the two is given.

    Raises:
        subprocess.CalledProcessError: The command failed; the end of its stderr is in the note.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        family = _Family(process.pid)
        while True:
            reaped, status, account = os.wait4(process.pid, os.WNOHANG)
            if reaped:
                break
            family.look()
            time.sleep(_INTERVAL_SECONDS)
        wall_seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        deadline = time.perf_counter() + _LINGER_SECONDS
        while family.look() and time.perf_counter() < deadline:
            time.sleep(_INTERVAL_SECONDS)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            error = subprocess.CalledProcessError(process.returncode, command)
            error.add_note(stderr.read()[-2000:])
            raise error
        return Usage(
            wall_seconds=wall_seconds,
            cpu_seconds=max(account.ru_utime + account.ru_stime, family.cpu_seconds),
            peak_mb=family.peak_kb / 1024,
            output=stdout.read(),
        )


@dataclass(kw_only=True, slots=True)
class _Seen:
    start_ticks: int
    cpu_ticks: int = 0


@dataclass(slots=True)
class _Family:
    """A process and its descendants, orphans included once they were seen beside their parent."""

    root: int
    peak_kb: int = 0
    _members: dict[int, _Seen] = field(default_factory=dict)
    _gone_ticks: int = 0

    @property
    def cpu_seconds(self) -> float:
        return (self._gone_ticks + sum(seen.cpu_ticks for seen in self._members.values())) / _TICKS_PER_SECOND

    def look(self) -> bool:
        """Read /proc once; whether any member lives."""
        now = _processes()
        for pid, seen in list(self._members.items()):
            if pid not in now or now[pid][1] != seen.start_ticks:
                self._gone_ticks += self._members.pop(pid).cpu_ticks
        # In order of birth, so that a parent is known before its child.
        for pid, (parent, start_ticks, cpu_ticks) in sorted(now.items(), key=lambda entry: entry[1][1]):
            if pid == self.root or pid in self._members or parent in self._members:
                self._members.setdefault(pid, _Seen(start_ticks=start_ticks)).cpu_ticks = cpu_ticks
                self.peak_kb = max(self.peak_kb, _peak_kb(pid))
        return bool(self._members)


def _processes() -> dict[int, tuple[int, int, int]]:
    """Parent, start and CPU ticks of each living process by its number."""
    found: dict[int, tuple[int, int, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                found[int(folder.name)] = (int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))
    return found


def _peak_kb(pid: int) -> int:
    # Not getrusage's ru_maxrss: a new process inherits the size of the one that started it.
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
