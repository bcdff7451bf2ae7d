"""`vitok describe` prints the rows of the tables, without Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.command import EXIT_USAGE
from jobs.describe_model import HEADER, DescribeConfig, describe_model
from pipeline.runs.record import StartClock

ROOT = Path(__file__).parents[2]


def printed(capsys, *variants, **flags):
    assert describe_model(DescribeConfig(variants=variants, **flags), StartClock()) == 0
    return capsys.readouterr().out.splitlines()


def test_rows_are_those_of_the_tables(capsys):
    header, first, second, note = printed(capsys, "S-B/4x8", "S-B/4x16", num_frames=16, resolution=128)
    assert header.split() == " ".join(HEADER).split()
    assert first.split() == [
        *("S-B/4x8", "128.863", "53.81", "106.97", "160.78", "160.8", "4x16x16", "1024", "16384", "48")
    ]
    assert second.split() == [
        *("S-B/4x16", "132.402", "12.09", "23.57", "35.67", "34.8", "4x8x8", "256", "4096", "192")
    ]
    assert len({len(line) for line in (header, first, second)}) == 1
    assert "multiply-accumulates" in note


def test_latent_channels_change_the_latent(capsys):
    _, row, _ = printed(capsys, "N-N/16", latent_channels=32)
    assert row.split()[-2:] == ["8192", "24"]


def test_the_program_starts_no_ray():
    code = (
        "import sys; sys.argv = ['vitok', 'describe', 'N-N/4x8', '--num-frames', '16', '--resolution', '128']\n"
        "from jobs.command import main; code = main()\n"
        "print(code, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "N-N/4x8" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "expected at least one"),
        (("S-Q/4",), "variant: got 'S-Q/4'"),
        (("S-B/16", "--resolution", "100"), "does not divide into tubelets 1x16"),
    ],
)
def test_what_a_user_can_mend_is_one_message(argv, message):
    done = subprocess.run(
        [sys.executable, "-m", "jobs.command", "describe", *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == EXIT_USAGE
    assert message in done.stderr
    assert "Traceback" not in done.stderr
