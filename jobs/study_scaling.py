"""Study scaling: tokenizers of several sizes, generators on them if asked, and how quality follows latent size."""

import sys

from jobs.command import EXIT_FAILED, run
from pipeline.runs.record import StartClock
from pipeline.training.study import StudyConfig, StudyFailedError, study


def study_scaling(config: StudyConfig, clock: StartClock) -> int:
    """Run the job and print its points and the lines through them."""
    from pipeline.report.study import table
    from pipeline.report.study_data import PAPER_FITS

    try:
        summary = study(config, clock=clock)
    except StudyFailedError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    rows = table(summary.points)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        sys.stdout.write("  ".join(cells) + "\n")
    for name, fit in summary.fits.items():
        paper = f"; paper, ImageNet 256p: {PAPER_FITS[name]}" if name in PAPER_FITS else ""
        sys.stdout.write(f"{name.upper()} over x = log2 E: {fit}{paper}\n")
    sys.stdout.write(f"page  {summary.page}\n")
    return 0


def main() -> int:
    """Entry point."""
    return run(StudyConfig, study_scaling)


if __name__ == "__main__":
    sys.exit(main())
