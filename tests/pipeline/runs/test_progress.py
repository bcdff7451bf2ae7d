"""Progress says done, total, rate and what is left: lines in a log, a bar in a terminal."""

import io
import logging
import re

import pytest

from pipeline.runs import progress
from pipeline.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog):
    """Lines logged so far."""
    caplog.set_level(logging.INFO, logger="pipeline.runs.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_short_run_says_one_line_at_its_end(lines):
    with Progress("encode", total=20) as bar:
        bar.advance(4)
        bar.advance(6, note="1 rejected")
        assert lines() == []
    (line,) = lines()
    assert re.fullmatch(r"encode: 10 of 20 clips, [\d.]+ clips/s, \d+ s left, 1 rejected", line)


def test_a_long_run_says_a_line_now_and_then(lines, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL_SECONDS", 0.0)
    with Progress("train", total=3, unit="steps") as bar:
        bar.advance(1)
        bar.advance(1)
        assert [line.split(",")[0] for line in lines()] == ["train: 1 of 3 steps", "train: 2 of 3 steps"]


def test_what_an_earlier_run_did_counts_as_done_and_not_as_speed(lines):
    with Progress("encode", total=1_000_000, done=999_998) as bar:
        bar._started -= 10  # ten seconds ago
        bar.advance(1)
    (line,) = lines()
    assert line.startswith("encode: 999999 of 1000000 clips, 0.10 clips/s, 10 s left")


def test_a_run_that_did_nothing_says_nothing(lines):
    with Progress("encode", total=5, done=5):
        pass
    assert lines() == []


def test_nothing_done_yet_is_no_fault(lines, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL_SECONDS", 0.0)
    with Progress("encode", total=5) as bar:
        bar.advance(0)
    assert lines()[0] == "encode: 0 of 5 clips, 0.00 clips/s, inf s left"


def test_a_run_that_fails_says_how_far_it_came(lines):
    def fail():
        with Progress("encode", total=5) as bar:
            bar.advance(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert lines()[0].startswith("encode: 2 of 5 clips")


def test_a_terminal_gets_a_bar_and_no_lines(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("encode", total=8, done=2) as bar:
        bar.advance(6, note="1 rejected")
    shown = terminal.getvalue()
    assert "encode" in shown
    assert "8/8" in shown
    assert "1 rejected" in shown
    assert lines() == []
