"""`vitok prepare` beside other programs that prepare the same media, and beside the limit of what it calls.

Images: real photographs to JPEGs of 256 x 256 in tars, quality 95. ours 4:4:4, scaled decoding and Pillow's bilinear
filter; img2dataset OpenCV, area filter, 4:2:0; Ray Data alone (read_images, map, write_webdataset) Pillow's bilinear,
4:2:0. The limit is two plain processes that call our decode_image and resize_frames, simplejpeg and tarfile (bare).
Videos: H.264 clips to 8 frames a second of 256 x 256, not compressed. The limit is the ffmpeg program (to raw files);
Ray's read_videos and Daft's read_video_frames squash the whole frame to the square and only count the frames.

Every program runs as a command of its own with two workers, by turns, on the whole corpus and on a quarter of it; files
stand in the page cache. "whole command" is media over wall seconds, starts included. The other speeds are of the
difference between whole and quarter, which starts cancel out of: what one more media costs. "per CPU second" counts all
of a program's processes. Memory is the largest process's peak. What the outputs are is checked before any speed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import Row, machine, table
from make_peers import interpreter
from preparers.corpus import CLIPS, make_photographs, make_videos, source_frames
from preparers.outputs import pictures, psnr_between
from preparers.usage import Usage, metered

ROOT = Path(__file__).parents[1]
PREPARERS = ROOT / "benchmarks" / "preparers"
SIZE, QUALITY, FPS, NUM_FRAMES = 256, 95, 8, 16
SHARD_SIZE, VIDEO_SHARD_SIZE = 512, 16
WORKERS = 2
COMPARED = 300
"""Photographs whose pixels are compared."""
MIN_PSNR = 25.0
"""Median PSNR in dB to a peer's pixels under which the two do not the same: kernels and chroma differ, pictures not."""
QUICK = {"runs": 1, "photos": 160, "video_copies": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Media to prepare, and a quarter of them."""

    name: str
    whole: Path
    quarter: Path
    whole_count: int
    """Photographs, or frames of all videos as they are before sampling."""
    quarter_count: int
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One program over one corpus, once."""

    whole: Usage
    quarter: Usage

    def speeds(self, corpus: Corpus) -> dict[tuple[str, str], float]:
        """Measured values by what and unit."""
        more = corpus.whole_count - corpus.quarter_count
        wall = self.whole.wall_seconds - self.quarter.wall_seconds
        cpu = self.whole.cpu_seconds - self.quarter.cpu_seconds
        return {
            ("whole command", f"{corpus.unit}/s"): corpus.whole_count / self.whole.wall_seconds,
            ("all cores", f"{corpus.unit}/s"): more / wall,
            ("per CPU second", f"{corpus.unit}/s"): more / cpu,
            ("largest process", "MB"): self.whole.peak_mb,
        }


Command = Callable[[Path, Path], Sequence[str | Path]]
"""From the folder of media and the output folder to a command."""


def measure(runs: int, photos: int, video_copies: int, only: Sequence[str] = ()) -> list[Row]:
    """Make the corpora, check what each program makes of them, then time all by turns."""
    size, fps, workers = str(SIZE), str(FPS), str(WORKERS)
    of_images = (size, str(QUALITY), str(SHARD_SIZE), workers)
    images: dict[str, Command] = {
        "ours": _ours("--num-frames", "1", "--tubelet", "1x16", "--shard-size", str(SHARD_SIZE)),
        "bare loop": lambda media, output: (*_driver("bare_images"), media, output, size, str(QUALITY), workers),
        "img2dataset": lambda media, output: (
            interpreter("img2dataset"),
            PREPARERS / "img2dataset_images.py",
            *(media, output, *of_images),
        ),
        "Ray Data": lambda media, output: (*_driver("ray_images"), media, output, *of_images),
    }
    videos: dict[str, Command] = {
        "ours": _ours(
            *("--num-frames", str(NUM_FRAMES), "--fps", fps, "--tubelet", "4x16"),
            *("--codec", "raw", "--shard-size", str(VIDEO_SHARD_SIZE)),
        ),
        "ffmpeg": lambda media, output: (*_driver("ffmpeg_videos"), media, output, size, fps, workers),
        "Ray read_videos": lambda media, _output: (*_driver("ray_videos"), media, size, fps, workers),
        "Daft": lambda media, _output: (interpreter("daft"), PREPARERS / "daft_videos.py", media, size, fps, workers),
    }
    if only:
        images, videos = ({name: kept[name] for name in kept if name in ("ours", *only)} for kept in (images, videos))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photographs(folder / "photos", photos)
        make_photographs(folder / "photos-quarter", photos // 4)
        make_videos(folder / "videos", video_copies)
        make_videos(folder / "videos-quarter", video_copies // 4)
        frames = source_frames(folder / "videos-quarter") // (video_copies // 4)
        corpora = [
            Corpus(
                name="images",
                whole=folder / "photos",
                quarter=folder / "photos-quarter",
                whole_count=photos,
                quarter_count=photos // 4,
                unit="images",
            ),
            Corpus(
                name="videos",
                whole=folder / "videos",
                quarter=folder / "videos-quarter",
                whole_count=frames * video_copies,
                quarter_count=frames * (video_copies // 4),
                unit="source frames",
            ),
        ]
        scratch = folder / "output"
        rows = [*_same_pictures(images, corpora[0], scratch), *_same_frames(videos, corpora[1], scratch)]
        for corpus, commands in zip(corpora, (images, videos), strict=True):
            rows += _timed(commands, corpus, runs, scratch) if len(commands) > 1 else []
    return rows


def _ours(*flags: str) -> Command:
    shape = ("--resolution", str(SIZE), "--num-workers", str(WORKERS), "--quality", str(QUALITY))
    command = (sys.executable, ROOT / "jobs" / "prepare_corpus.py", *shape, *flags)
    return lambda media, output: (*command, "--input", media, "--output", output)


def _driver(name: str) -> tuple[str, Path]:
    """One that runs in our own environment."""
    return sys.executable, PREPARERS / f"{name}.py"


def _run(command: Command, media: Path, output: Path) -> Usage:
    """Run on an output folder that does not exist yet."""
    shutil.rmtree(output, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # A thread pool in each worker would take the other worker's core; and no program is to look for its updates.
    quiet = {
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "DAFT_ANALYTICS_ENABLED": "0",
    }
    return metered(command(media, output), {**environment, **quiet, "PYTHONPATH": str(ROOT)})


def _same_pictures(commands: Mapping[str, Command], corpus: Corpus, scratch: Path) -> list[Row]:
    """How near our pictures are to each peer's, on the quarter."""
    _run(commands["ours"], corpus.quarter, scratch)
    ours = pictures(scratch, "media_uri")
    rows = []
    for peer, field in (("img2dataset", "url"), ("Ray Data", "path")):
        if peer not in commands:
            continue
        _run(commands[peer], corpus.quarter, scratch)
        theirs = pictures(scratch, field)
        if len(theirs) != corpus.quarter_count:
            raise ValueError(f"{peer}: got {len(theirs)} pictures, expected {corpus.quarter_count}")
        row = Row.of(
            f"images / median PSNR to {peer}, at least",
            psnr_between(ours, theirs, size=SIZE, limit=COMPARED),
            [MIN_PSNR],
            "dB",
        )
        if row.ours < MIN_PSNR:
            raise ValueError(f"{row.name}: got {row.ours:.1f} dB, expected {MIN_PSNR} dB: not the same pictures")
        rows.append(row)
        bytes_each = [sum(map(len, side.values())) / len(side) for side in (ours, theirs)]
        rows.append(Row.of(f"images / JPEG size, {peer}", bytes_each[:1], bytes_each[1:], "bytes"))
    return rows


def _same_frames(commands: Mapping[str, Command], corpus: Corpus, scratch: Path) -> list[Row]:
    """How many frames each makes of the quarter; ours drops the end of a video that fills no clip."""
    if len(commands) == 1:
        return []
    _run(commands["ours"], corpus.quarter, scratch)
    ours = _record(scratch)["counts"]["stored"] * NUM_FRAMES
    peers = [peer for peer in commands if peer != "ours"]
    return [
        Row.of(
            f"videos / frames at {FPS} a second, {peer}",
            [ours],
            [int(_run(commands[peer], corpus.quarter, scratch).output)],
            "frames",
        )
        for peer in peers
    ]


def _timed(commands: Mapping[str, Command], corpus: Corpus, runs: int, scratch: Path) -> list[Row]:
    trials: dict[str, list[Trial]] = {name: [] for name in commands}
    records = []
    for _ in range(runs):
        for name, command in commands.items():
            quarter = _run(command, corpus.quarter, scratch)
            whole = _run(command, corpus.whole, scratch)
            trials[name].append(Trial(whole=whole, quarter=quarter))
            if name == "ours":
                records.append(_record(scratch))
    measured = {name: [trial.speeds(corpus) for trial in entries] for name, entries in trials.items()}
    rows = [
        Row.of(
            f"{corpus.name} / {what}, {peer}",
            [values[what, unit] for values in measured["ours"]],
            [values[what, unit] for values in measured[peer]],
            unit,
        )
        for peer in commands
        if peer != "ours"
        for what, unit in measured[peer][0]
    ]
    in_work = [corpus.whole_count / record["seconds"]["work"] for record in records]
    limit = next(name for name in commands if name != "ours")
    of_limit = [values["all cores", f"{corpus.unit}/s"] for values in measured[limit]]
    rows.append(Row.of(f"{corpus.name} / our work phase, {limit}", in_work, of_limit, f"{corpus.unit}/s"))
    peaks = [[getattr(trial, part).peak_mb for trial in trials["ours"]] for part in ("whole", "quarter")]
    rows.append(Row.of(f"{corpus.name} / our largest process, whole and quarter", *peaks, "MB"))
    return [*rows, *_profile(corpus, records)]


def _profile(corpus: Corpus, records: Sequence[dict[str, dict[str, float]]]) -> list[Row]:
    """Where our seconds go: the driver's phases beside their sum, the workers' steps beside theirs."""
    rows = []
    for clock, whose in (("seconds", "driver"), ("worker_seconds", "workers")):
        totals = [sum(value for name, value in record[clock].items() if name != "total") for record in records]
        rows += [
            Row.of(f"{corpus.name} / {whose}: {name}", [record[clock][name] for record in records], totals, "s")
            for name in records[0][clock]
            if name != "total"
        ]
    return rows


def _record(store: Path) -> dict[str, dict[str, float]]:
    (path,) = store.glob("runs/*/record.json")
    record: dict[str, dict[str, float]] = json.loads(path.read_bytes())
    return record


def main() -> None:
    """Parse the command line, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--runs", type=int, default=5, help="repetitions (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=3000, help="photographs, 4 or more (default: %(default)s)")
    parser.add_argument(
        "--video-copies",
        type=int,
        default=4,
        help=f"copies of the {len(CLIPS)} clips, a multiple of 4 (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="PROGRAM", help='beside ours, such as "bare loop"')
    parser.add_argument("--quick", action="store_true", help=f"see that it runs, speeds mean nothing: {QUICK}")
    arguments = vars(parser.parse_args())
    path, quick = arguments.pop("json"), arguments.pop("quick")
    arguments |= QUICK if quick else {}
    if arguments["photos"] < 4 or arguments["video_copies"] % 4 or arguments["video_copies"] < 4:
        parser.error(f"got {arguments}, expected 4 or more photos and a multiple of 4 video copies")
    rows = measure(**arguments)
    sys.stdout.write(table(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        only = "".join(f" '{name}'" for name in arguments.pop("only"))
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in arguments.items())
        flags += f" --only{only}" if only else ""
        document = {
            "command": f"python benchmarks/prepare.py {flags}",
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
