"""The page of a training: a chart for what was logged, none for what was not, and the pictures by step."""

import numpy as np
import pytest
from PIL import Image

from pipeline.report.training import training_charts, write_training_page
from pipeline.store.files import Folder
from tests.pipeline.report.pages import check_alone

POINTS = [
    (step, {"tokenizer/total": 1 / step, "tokenizer/pixel": 0.5 / step, "tokenizer/learning_rate": 0.001})
    for step in (10, 20, 30)
]
HELD_OUT = [
    (20, {"validation/kl": 2.0, "validation/psnr": 20.5}),
    (30, {"validation/kl": 1.0, "validation/psnr": 21.5}),
]


def titles(points):
    return [chart.title for chart in training_charts(points, player="tokenizer")]


def test_what_was_logged_is_drawn():
    loss, rate = training_charts(POINTS, player="tokenizer")
    assert [(mark.name, mark.x, mark.y[-1]) for mark in loss.marks] == [
        ("total", [10.0, 20.0, 30.0], pytest.approx(1 / 30)),
        ("pixel", [10.0, 20.0, 30.0], pytest.approx(0.5 / 30)),
    ]
    assert loss.log_y
    assert rate.title == "Learning rate"
    held_out = ["Held-out clips: PSNR [dB]", "Held-out clips: kl"]
    assert titles([*POINTS, *HELD_OUT]) == ["Loss terms, unweighted", *held_out, "Learning rate"]


def test_what_cannot_be_drawn_is_left_out():
    assert titles(POINTS[:1]) == []
    assert titles([]) == []
    below = [(1, {"tokenizer/total": 1.0, "tokenizer/gan": -0.5}), (2, {"tokenizer/total": 0.5, "tokenizer/gan": 0.5})]
    loss, gan = training_charts(below, player="tokenizer")
    assert [mark.name for mark in loss.marks] == ["total"]
    assert (gan.title, gan.log_y) == ("Gan", False)


@pytest.mark.parametrize("player", ["tokenizer", "generator"])
def test_the_page_has_the_first_the_last_and_some_pictures_between(tmp_path, player):
    (tmp_path / "pictures").mkdir()
    for step in range(10, 130, 10):
        Image.fromarray(np.full((16, 32, 3), step, np.uint8)).save(tmp_path / "pictures" / f"step-{step:08d}.png")
    (tmp_path / "pictures" / "other.png").write_bytes(b"no picture of a step")
    identity = {"recipe": "</pre><script>alert(1)</script>"}
    write_training_page(
        Folder(str(tmp_path)),
        "report.html",
        points=[*POINTS, *HELD_OUT],
        player=player,
        pictures="pictures",
        identity=identity,
    )
    page = check_alone((tmp_path / "report.html").read_text(encoding="utf-8"))
    pictured = [frames[0, 0, 0, 0] for frames in page.frames().values()]
    assert len(pictured) == 6
    assert (pictured[0], pictured[-1]) == (120, 10)
    assert "held-out PSNR [dB] 21.500" in page.text
    assert "</pre><script>alert(1)</script>" in page.text


def test_a_training_that_logged_nothing_has_a_page_too(tmp_path):
    write_training_page(
        Folder(str(tmp_path)), "report.html", points=[], player="tokenizer", pictures="pictures", identity={}
    )
    text = check_alone((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Nothing was logged." in text
    assert "None was made." in text
