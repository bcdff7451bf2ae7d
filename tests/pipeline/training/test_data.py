"""Which bucket a step takes: in proportion, and a function of seed and step alone."""

from collections import Counter

from pipeline.training.data import bucket_of_step

SIZES = {"grid=1x8x8": 300, "grid=2x8x8": 100}


def test_buckets_are_drawn_in_proportion_to_their_clips():
    drawn = Counter(bucket_of_step(SIZES, seed=0, step=step) for step in range(2000))
    assert abs(drawn["grid=1x8x8"] / 2000 - 0.75) < 0.03


def test_the_same_step_draws_the_same_bucket_whatever_came_before():
    forward = [bucket_of_step(SIZES, seed=7, step=step) for step in range(50)]
    backward = [bucket_of_step(SIZES, seed=7, step=step) for step in reversed(range(50))]
    assert forward == backward[::-1]
    assert forward != [bucket_of_step(SIZES, seed=8, step=step) for step in range(50)]
