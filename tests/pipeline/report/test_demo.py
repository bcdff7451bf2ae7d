"""The page of the demo: what each job did, and the pictures of both trainings by step."""

import numpy as np
from PIL import Image

from pipeline.report.demo import DemoTraining, write_demo_page
from pipeline.store.files import Folder
from tests.pipeline.report.pages import audit, check_alone

FACTS = [("prepare", "7 clips = 4 stored; 3.5 clips/s"), ("report", "/tmp/<b>report</b>")]


def training(folder, player, steps):
    """A training that logged and pictured some steps: each picture is grey, as bright as its step is late."""
    pictures = folder / player / "pictures"
    pictures.mkdir(parents=True)
    for step in steps:
        Image.fromarray(np.full((16, 16, 3), step, np.uint8)).save(pictures / f"step-{step:08d}.png")
    points = [
        (step, {f"{player}/total": 1 / step, f"{player}/pixel": 0.5 / step, "validation/psnr": 20.0 + step})
        for step in steps
    ]
    return DemoTraining(player=player, points=points, pictures=f"{player}/pictures", page=f"{player}/report.html")


def test_the_page_shows_every_job_and_leads_to_their_pages(tmp_path):
    Image.fromarray(np.full((16, 32, 3), 80, np.uint8)).save(tmp_path / "samples.png")
    write_demo_page(
        Folder(str(tmp_path)),
        "report.html",
        facts=FACTS,
        tokenizer=training(tmp_path, "tokenizer", (10, 20, 30)),
        audit=audit(),
        audit_page="audit/report.html",
        generator=training(tmp_path, "generator", (40, 50, 60, 70)),
        samples="samples.png",
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = check_alone(html, links=["tokenizer/report.html", "audit/report.html", "generator/report.html"])
    for name, value in FACTS:
        assert f"{name} {value}" in page.text
    assert "PSNR" in page.text
    assert "31.23" in page.text  # the audit's
    assert html.count("Loss terms, unweighted") == 2 * 2  # the title, and the chart's label

    assert [picture[0, 0, 0, 0] for picture in page.frames().values()] == [30, 10, 70, 60, 50, 40, 80]
