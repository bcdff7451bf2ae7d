"""Where the seconds of the demo's jobs go: each job as a command of its own, split by stage.

ours is the stage, other the whole command; the ratio is the stage's share. Driver: imports, open (inputs; here torch is
imported), ray (start of Ray's embedded default), plan, fold. Workers, seconds per worker: weights, work, commit. start
is what is left of the working phase: Ray Data's start and the workers' own imports.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Row, main

from jobs.media import collect_media
from jobs.run_demo import NUM_FRAMES, RESOLUTION, SHARD_SIZE, TUBELET

STEPS = 50
STAGES = ("imports", "open", "ray", "plan", "start", "weights", "work", "commit", "fold")


def measure(runs: int) -> list[Row]:
    """Run the chain `runs` times from nothing."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for job, stages in chain(Path(folder)).items():
                for stage, value in stages.items():
                    seconds.setdefault(job, {}).setdefault(stage, []).append(value)
    return [
        Row.of(f"{job}/{stage}", stages[stage], stages["total"], "s")
        for job, stages in seconds.items()
        for stage in (*STAGES, "total")
        if any(stages[stage])
    ]


def chain(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds by stage of each job, run as commands one after the other."""
    collect_media(folder / "media")
    clips, tokenizer = folder / "clips", folder / "training" / "tokenizer"
    shape = ("--resolution", str(RESOLUTION), "--num-frames", str(NUM_FRAMES), "--tubelet", TUBELET)
    recipe = ("--recipe", "laptop", "--max-steps", str(STEPS))
    from_tokenizer = ("--shards", str(clips), "--tokenizer", str(tokenizer), "--shard-size", str(SHARD_SIZE))
    commands = {
        "prepare_corpus": (clips, "--input", str(folder / "media"), *shape, "--shard-size", str(SHARD_SIZE)),
        "train_tokenizer": (folder / "training", "--shards", str(clips), *recipe, "--threads-per-worker", "2"),
        "encode_corpus": (folder / "latents", *from_tokenizer),
        "audit_reconstruction": (folder / "audit", *from_tokenizer),
    }
    return {job: _run(job, output, flags) for job, (output, *flags) in commands.items()}


def _run(job: str, output: Path, flags: list[str]) -> dict[str, float]:
    script = Path(__file__).parents[1] / "jobs" / f"{job}.py"
    subprocess.run([sys.executable, str(script), "--output", str(output), *flags], check=True, capture_output=True)
    whole, *inner = [
        json.loads(path.read_bytes())
        for pattern in ("runs/*/record.json", "candidates/*/runs/*/record.json")  # an audit runs once a candidate
        for path in output.glob(pattern)
    ]
    (record,) = inner or [whole]
    driver, workers = record["seconds"], record["counts"].get("workers", 1)
    if inner:
        driver |= {
            name: driver.get(name, 0.0) + whole["seconds"].get(name, 0.0) for name in ("imports", "open", "fold")
        }
        driver["total"] = whole["seconds"]["total"]
    steps = {name: value / workers for name, value in record["worker_seconds"].items()}
    worked = sum(value for name, value in steps.items() if name not in ("weights", "commit"))
    stages = {
        "weights": steps.get("weights", 0.0),
        "commit": steps.get("commit", 0.0),
        # Ray Train's workers keep no clock of their own: all of their phase is work.
        "work": worked if steps else driver["work"],
    }
    return {
        **{stage: driver.get(stage, 0.0) for stage in ("imports", "open", "ray", "plan", "fold", "total")},
        **stages,
        "start": driver["work"] - sum(stages.values()),
    }


if __name__ == "__main__":
    main(measure, description=__doc__, runs=3)
