"""Progress: a bar in a terminal, a line now and then in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_LINE_INTERVAL_SECONDS = 10.0
logger = logging.getLogger(__name__)


class Progress:
    """Counts clips (or steps) towards a total; says done, total, rate, time left and rejects."""

    def __init__(self, name: str, *, total: int, done: int = 0, unit: str = "clips") -> None:
        self._name = name
        self._total = total
        self._initial = done
        self._done = done
        self._unit = unit
        self._note = ""
        self._started = self._last_line = time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, desc=name, unit=f" {unit}", disable=None) if terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._initial:
            self._line()

    def advance(self, count: int, *, note: str = "") -> None:
        """Count more done; `note` replaces what stands at the end of the line."""
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL_SECONDS:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        rate = (self._done - self._initial) / max(self._last_line - self._started, 1e-9)
        left_seconds = (self._total - self._done) / rate if rate else float("inf")
        logger.info(
            "%s: %d of %d %s, %.2f %s/s, %.0f s left%s",
            self._name,
            self._done,
            self._total,
            self._unit,
            rate,
            self._unit,
            left_seconds,
            f", {self._note}" if self._note else "",
        )
