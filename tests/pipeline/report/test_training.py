"""Curves of a training: a picture for what was logged, none for what was not."""

import io

import numpy as np
from PIL import Image

from pipeline.report.training import draw_training


def test_what_was_logged_is_drawn():
    points = [(step, {"tokenizer/total": 1 / step, "tokenizer/pixel": 0.5 / step}) for step in (1, 2, 3)]
    assert set(draw_training(points)) == {"loss.png"}
    held_out = [*points, (3, {"validation/psnr": 21.5})]
    drawings = draw_training(held_out)
    assert set(drawings) == {"loss.png", "psnr.png"}
    for png in drawings.values():
        assert np.asarray(Image.open(io.BytesIO(png))).std() > 1
    assert draw_training(points) == {"loss.png": drawings["loss.png"]}


def test_a_term_that_a_logarithm_cannot_show_is_left_out():
    below = [(1, {"tokenizer/total": 1.0, "tokenizer/gan": -0.5}), (2, {"tokenizer/total": 0.5, "tokenizer/gan": 0.5})]
    without = [(step, {"tokenizer/total": values["tokenizer/total"]}) for step, values in below]
    assert draw_training(below) == draw_training(without)
    assert draw_training([]) == {}
