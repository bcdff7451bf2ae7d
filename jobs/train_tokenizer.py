"""Train a tokenizer: ViTok, stage 1, on clip shards."""

import sys

from jobs.command import run
from pipeline.runs.record import StartClock
from pipeline.training.tokenizer import TrainConfig, train


def train_tokenizer(config: TrainConfig, clock: StartClock) -> int:
    """Run the job."""
    train(config, clock=clock)
    return 0


def main() -> int:
    """Entry point."""
    return run(TrainConfig, train_tokenizer)


if __name__ == "__main__":
    sys.exit(main())
