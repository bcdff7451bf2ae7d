"""Train a tokenizer: ViTok, stage 1 or 2, on clip shards; flags change the recipe they follow."""

import sys

from jobs.recipe import run_training
from pipeline.runs.record import StartClock
from pipeline.training.config import TrainConfig
from pipeline.training.recipes import RECIPES
from pipeline.training.tokenizer import TrainSummary, train


def train_tokenizer(config: TrainConfig, clock: StartClock) -> TrainSummary:
    """Run the job."""
    return train(config, clock=clock)


def main() -> int:
    """Entry point."""
    return run_training(TrainConfig, train_tokenizer, RECIPES, needed=("shards", "output"))


if __name__ == "__main__":
    sys.exit(main())
