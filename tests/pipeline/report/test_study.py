"""What a study shows: least squares, what its figure is over, and a page that needs nothing from outside."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.report.study import draw_study, panels_of, table, write_study
from pipeline.report.study_data import PAPER_FITS, StudyPoint, axis_of, fit_line, fits_of, shown_metrics
from pipeline.store.files import Folder
from tests.pipeline.report.pages import Page, check_alone

PAPER_POINTS = (  # E, SSIM, PSNR of figure 2: p = 32, 16, 8, each with c = 4, 8, 16, 32, 64
    *((256, 0.5156, 20.09), (512, 0.5721, 21.32), (1024, 0.6328, 22.62), (2048, 0.6916, 23.93), (4096, 0.7607, 25.43)),
    *((1024, 0.6473, 22.82), (2048, 0.7147, 24.29), (4096, 0.7902, 26.12), (8192, 0.8555, 28.12)),
    *((16384, 0.9095, 30.55), (4096, 0.7975, 26.17), (8192, 0.8624, 28.34), (16384, 0.9154, 30.95)),
    *((32768, 0.9632, 35.11), (65536, 0.9854, 39.94)),
)
POINT = StudyPoint(
    name="N-N_1x8_c4",
    encoder="N",
    decoder="N",
    tubelet="1x8",
    latent_channels=4,
    positions="rope3d",
    bottleneck="kl",
    seed=0,
    grid="1x8x8",
    latent_size=256,
    encoder_parameters=928_000,
    decoder_parameters=927_000,
    macs=124_000_000,
    metrics={"psnr": 17.125, "ssim": 0.25, "kl": 3.0},
)
PROTOCOL = {
    "recipe": {"max_steps": 37, "batch_size": 8, "learning_rate": 0.024},
    "clip": "1x64x64",
    "validation_clips": 41,
    "clips": [{"fingerprint": "5ca1ab1e"}],
}


def scaled():
    """Two patch sizes, five values of E."""
    return [
        replace(
            POINT,
            name=f"{tubelet}-{channels}",
            tubelet=tubelet,
            latent_channels=channels,
            latent_size=tokens * channels,
            metrics={"psnr": 10 + 1.25 * math.log2(tokens * channels), "ssim": 0.1 + math.log2(channels) / 64},
        )
        for tubelet, tokens in (("1x8", 64), ("1x16", 16))
        for channels in (4, 8, 16)
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.floats(-1e3, 1e3)), min_size=3, max_size=20, unique_by=lambda pair: pair[0]
    )
)
def test_a_fit_is_the_least_squares_of_others(pairs):
    x, y = (list(map(float, values)) for values in zip(*pairs, strict=True))
    fit = fit_line(x, y)
    slope, intercept = np.polyfit(x, y, 1)
    np.testing.assert_allclose([fit.slope, fit.intercept], [slope, intercept], rtol=1e-6, atol=1e-6)
    if np.std(y) > 1e-6:
        assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-6)


def test_a_level_line_explains_nothing():
    fit = fit_line([1.0, 2.0, 4.0], [3.0, 3.0, 3.0])
    assert (fit.slope, fit.intercept, fit.r_squared) == (0.0, 3.0, 0.0)


def test_a_line_needs_two_different_x():
    with pytest.raises(ValueError, match="got 1 different x"):
        fit_line([2.0, 2.0], [1.0, 3.0])


@pytest.mark.parametrize(("metric", "column"), [("ssim", 1), ("psnr", 2)])
def test_the_paper_s_lines_are_those_of_its_points(metric, column):
    fit = fit_line([math.log2(row[0]) for row in PAPER_POINTS], [row[column] for row in PAPER_POINTS])
    assert fit.slope == pytest.approx(PAPER_FITS[metric].slope, rel=1e-3)
    assert fit.intercept == pytest.approx(PAPER_FITS[metric].intercept, rel=1e-2)
    assert round(fit.r_squared, 2) == PAPER_FITS[metric].r_squared


def test_the_axis_is_the_first_thing_that_varies():
    assert axis_of([POINT, POINT]) == "log2_latent_size"
    assert axis_of(scaled()) == "log2_latent_size"
    bigger = {"decoder": "B", "decoder_parameters": 2_000_000}
    assert axis_of([POINT, replace(POINT, **bigger)]) == "decoder_parameters"
    assert axis_of([POINT, replace(POINT, encoder="B")]) == "encoder_parameters"
    # A bottleneck without variances has a smaller last projection: that is no other size of encoder.
    assert axis_of([POINT, replace(POINT, bottleneck="tanh", encoder_parameters=927_000)]) == "bottleneck"
    assert axis_of([POINT, replace(POINT, positions="none", seed=1)]) == "positions"


def test_fits_are_over_log2_of_the_latent_size():
    fits = fits_of(scaled())
    assert fits["psnr"].slope == pytest.approx(1.25)
    assert fits["psnr"].intercept == pytest.approx(10.0)
    assert fits["psnr"].r_squared == pytest.approx(1.0)
    assert set(fits) == {"psnr", "ssim"}
    assert fits_of([POINT, replace(POINT, decoder="B")]) == {}


def test_a_figure_over_the_latent_s_size_has_both_lines():
    svg = draw_study(scaled()).svg
    for shown in ("fit: 1.25 x + 10, R² 1.00", "paper, ImageNet 256p: 2.302 x - 0.569, R² 0.92"):
        assert shown in svg
    for label in ("tubelet 1x8", "tubelet 1x16", "log₂ E", "PSNR / dB", "SSIM"):
        assert label in svg


def test_figures_over_other_axes_have_no_line():
    larger = replace(POINT, decoder="B", decoder_parameters=2_000_000, metrics={"psnr": 19.0, "ssim": 0.5})
    for points, label in (
        ([POINT, larger], "decoder's parameters / 10⁶"),
        ([POINT, replace(POINT, seed=1), replace(POINT, positions="none")], "positions"),
    ):
        svg = draw_study(points).svg
        assert label in svg
        assert "fit:" not in svg
        assert "paper" not in svg


def test_the_table_leaves_out_what_does_not_vary():
    header, row, _ = table([POINT, replace(POINT, seed=1, name="again")])
    assert dict(zip(header, row, strict=True)) == {
        "variant": "N-N/1x8",
        "c": "4",
        "seed": "0",
        "grid": "1x8x8",
        "E": "256",
        "encoder M": "0.928",
        "decoder M": "0.927",
        "GMAC": "0.124",
        "PSNR": "17.12",
        "SSIM": "0.2500",
    }
    assert "LPIPS" in table([replace(POINT, metrics=dict(POINT.metrics, lpips=0.5))])[0]


def generated():
    """The same points, and a generator for each: the best at a middle E."""
    return [
        replace(point, metrics={**point.metrics, "generation/fid_2015": 40.0 + (math.log2(point.latent_size) - 7) ** 2})
        for point in scaled()
    ]


def test_a_score_of_generation_stands_beside_reconstruction_and_has_no_line():
    points = generated()
    assert shown_metrics(points) == ["psnr", "ssim", "generation/fid_2015"]
    assert set(fits_of(points)) == {"psnr", "ssim"}
    assert fits_of(points) == fits_of(scaled())
    assert [row[-1] for row in table(points)] == ["gFID (2015)", "41.00", "44.00", "49.00", "41.00", "40.00", "41.00"]
    *_, panel = panels_of(points)
    assert (panel.x_label, panel.y_label, panel.lines) == (panels_of(scaled())[0].x_label, "gFID (2015)", ())
    drawn = [(series.name, dict(zip(series.x, series.y, strict=True))) for series in panel.series]
    assert drawn == [
        ("tubelet 1x8", {8.0: 41.0, 9.0: 44.0, 10.0: 49.0}),
        ("tubelet 1x16", {6.0: 41.0, 7.0: 40.0, 8.0: 41.0}),
    ]
    assert "gFID (2015)" in draw_study(points).svg


def test_a_score_that_some_points_lack_is_not_shown():
    assert shown_metrics([*generated(), *scaled()]) == shown_metrics([*scaled(), *generated()]) == ["psnr", "ssim"]


def written(folder, points, failed=(), **protocol):
    write_study(Folder(str(folder)), points=points, protocol={**PROTOCOL, **protocol}, failed=dict(failed))
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["study.html", "study.json", "study.png"]
    return (folder / "study.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(tmp_path):
    check_alone(written(tmp_path, scaled()))


def test_the_page_shows_points_lines_and_protocol(tmp_path):
    html = written(tmp_path, scaled())
    text = Page(html).text
    assert "N-N/1x16" in text
    assert "PSNR 1.25 10 1 2.302 -0.569 0.92" in text
    for shown in ("20.00", "1x8x8", "37 steps of 8 clips of 1x64x64", "at most 41 held-out clips", "5ca1ab1e"):
        assert shown in text
    for shown in ("fit: 1.25 x + 10, R² 1.00", "paper, ImageNet 256p: 2.302 x - 0.569, R² 0.92", "tubelet 1x16"):
        assert shown in text
    assert html.count("<circle") == 2 * len(scaled())
    assert html.count('class="path dashed"') == 2
    assert "without a result" not in text


def test_the_page_says_what_the_generators_were(tmp_path):
    generation = {
        "recipe": {"variant": "N", "process": "flow", "max_steps": 53, "batch_size": 16},
        "samples_per_class": 29,
        "sample_steps": 31,
        "guidance": 1.5,
        "metrics": ["fid_2015"],
    }
    html = written(tmp_path, generated(), generation=generation)
    text = check_alone(html).text
    assert html.count("<circle") == 3 * len(generated())
    assert "Each generator: N, flow, 53 steps of 16 latents; scored are 29 samples of each class, 31 steps" in text
    assert "gFID (2015)" in text


def test_a_failed_point_is_named_and_its_reason_is_text(tmp_path):
    html = written(tmp_path, [POINT], {"N-N_1x16_c4": "ValueError: <script>alert(1)</script>"})
    text = check_alone(html).text
    assert "N-N_1x16_c4" in text
    assert "ValueError: <script>alert(1)</script>" in text
    assert "Lines through the points" not in text


def test_the_record_holds_what_was_found_and_the_same_study_is_the_same_bytes(tmp_path):
    written(tmp_path, scaled())
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    document = json.loads(first["study.json"])
    assert [point["latent_size"] for point in document["points"]] == [256, 512, 1024, 64, 128, 256]
    assert document["fits"]["psnr"]["slope"] == pytest.approx(1.25)
    assert document["paper"]["psnr"] == {"slope": 2.302, "intercept": -0.569, "r_squared": 0.92}
    Image.open(io.BytesIO(first["study.png"])).load()
    written(tmp_path, scaled())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == first
