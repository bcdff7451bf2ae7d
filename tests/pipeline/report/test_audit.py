"""The audit's page is one file that shows what it says, whatever the media are called."""

import json
import math

import numpy as np
import pytest

from pipeline.report.audit import write_audit_page
from pipeline.report.audit_data import Skipped
from pipeline.report.notation import fixed, metric_style, si_text, size_text
from pipeline.store.files import Folder
from tests.pipeline.report.pages import Page, audit, check_alone, crops, example
from vitok.metrics.registry import METRICS

HOSTILE = "/media/</script><script>alert('x')</script>\"&<img src=x onerror=alert(1)>.mp4"


@pytest.fixture
def page(tmp_path):
    def page(data):
        write_audit_page(Folder(str(tmp_path)), "report.html", data)
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return page


def cards(parsed):
    return [attributes for tag, attributes in parsed.tags if tag == "article"]


def test_the_page_needs_nothing_from_outside(page, photograph):
    check_alone(page(audit([example(crops(photograph, 4)), example(crops(photograph, 1), key="b")])))


def test_every_text_is_text(page, photograph):
    hostile = example(crops(photograph, 1), key=HOSTILE, candidate=HOSTILE, media_uri=HOSTILE, label=HOSTILE)
    plain = audit()
    data = audit(
        [hostile],
        clips=HOSTILE,
        intervals=HOSTILE,
        protocol_id=HOSTILE,
        protocol={HOSTILE: HOSTILE},
        record={HOSTILE: HOSTILE},
    )
    for each in (data.candidates[0], data.slices[0].rows[0], data.latents[0], data.skipped[0]):
        for name in ("name", "detail", "line", "value", "candidate", "reason"):
            if hasattr(each, name):
                object.__setattr__(each, name, HOSTILE)
    object.__setattr__(data.slices[0], "column", HOSTILE)
    object.__setattr__(data.distributions[0], "counts", {HOSTILE: (1, 2)})
    html = page(data)
    parsed = check_alone(html)
    assert [tag for tag, _ in parsed.tags].count("img") == 0
    named = [example(crops(photograph, 1), key="k", candidate="c", media_uri="m", label="l")]
    as_many = Page(page(audit(named))).tags
    # A hostile name brings no tag with it: there are those of the same page with plain names.
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in as_many}
    assert parsed.text.count(HOSTILE) >= 12
    assert HOSTILE in [attributes["data-candidate"] for attributes in cards(parsed)]
    assert plain.protocol_id not in html


@pytest.mark.parametrize("num_frames", [1, 4, 7])
def test_a_clip_is_three_pictures_of_its_frames(page, photograph, num_frames):
    original = crops(photograph, num_frames)
    found = Page(page(audit([example(original, key="a", error=5)]))).frames()
    shown = {name.removesuffix(" of a"): frames for name, frames in found.items() if name.endswith(" of a")}
    assert set(shown) == {"original", "reconstruction", "difference"}
    np.testing.assert_array_equal(shown["original"], original)
    np.testing.assert_array_equal(shown["reconstruction"], np.minimum(original.astype(int) + 5, 255))
    np.testing.assert_array_equal(shown["difference"], 4 * (shown["reconstruction"] - original))


def test_an_original_is_in_the_page_once(page, photograph):
    original = crops(photograph, 1)
    one = Page(page(audit([example(original)])))
    two = Page(page(audit([example(original), example(original, candidate="theirs", error=9)])))
    assert len(two.films) - len(one.films) == 2


def test_numbers_stand_as_they_were_measured(page, photograph):
    text = Page(page(audit([example(crops(photograph, 1))]))).text
    for shown in (
        *(
            "31.23",
            "30.50 \N{EN DASH} 32.00",
            "0.8750",
            "8.19 kB",
            "4,096",
            "34.70",
            "46.2",
            "of 7: 1 filtered, 2 rejected",
        ),
        *("PSNR 34.12 dB", "SSIM 0.5000", "protocol-5ca1ab1e", "95 %, bootstrap over clips", "by label (3)"),
        *(
            "rFVD: clips have 4 frames, it needs 10",
            "\N{MINUS SIGN}0.75, channels 0 and 1",
            "3 NaN, 0 Inf",
            "dead channels 2",
        ),
        *("PSNR against bytes", "PSNR of clips", "KL divergence", '"rounding": "half to even"'),
    ):
        assert shown in text


def test_the_page_sorts_the_worst_first_by_the_first_metric_that_clips_have(page, photograph):
    psnrs = {"a": 30.0, "b": 20.0, "c": math.inf, "d": 25.0}
    clips = [example(crops(photograph, 1), key=key, metrics={"psnr": value}) for key, value in psnrs.items()]
    parsed = Page(page(audit(clips, metrics=["fvd", "psnr"])))
    assert [json.loads(card["data-values"])["psnr"] for card in cards(parsed)] == [20.0, 25.0, 30.0, math.inf]
    options = [attributes.get("value") for tag, attributes in parsed.tags if tag == "option"]
    assert options == ["", "ours", "+psnr", "-psnr"]
    lpips = [example(crops(photograph, 1), key=str(value), metrics={"lpips": value}) for value in (0.1, 0.3, 0.2)]
    parsed = Page(page(audit(lpips, metrics=["lpips"])))
    assert [json.loads(card["data-values"])["lpips"] for card in cards(parsed)] == [0.3, 0.2, 0.1]


def test_settings_of_a_codec_are_one_line_over_bytes(page):
    html = page(audit())
    figure = html[html.index("PSNR against bytes") :].partition("</figure>")[0]
    assert figure.count("<circle") == 4  # ours and three settings; theirs has no bytes
    assert figure.count('class="path"') == 1
    assert "jpeg 30: 28.00 dB at 3 kB" in figure
    distribution = html[html.index("PSNR of clips") :].partition("</figure>")[0]
    assert distribution.count('class="area"') == 1  # of the codec at several settings there is none


def test_what_one_reason_keeps_from_several_candidates_is_said_once(page):
    skipped = [Skipped(metric="fvd", candidate=name, reason="300 of 374 clips are images") for name in ("ours", "jpeg")]
    text = Page(page(audit(skipped=skipped))).text
    assert "Not measured, or not of all clips" in text
    assert text.count("rFVD of ours, jpeg: 300 of 374 clips are images") == 1


def test_an_audit_that_measured_nothing_has_a_page_too(page):
    nothing = {"planned": 3, "stored": 0, "filtered": 0, "rejected": 3, "metrics": {}}
    candidates = [type(audit().candidates[0])(name="ours", kind="tokenizer", **nothing)]
    empty = dict.fromkeys(("distributions", "slices", "latents", "examples", "skipped"), ())
    text = Page(page(audit(candidates=candidates, intervals="", **empty))).text
    assert "of 3: 3 rejected" in text
    assert "No clip was pictured." in text
    for absent in ("Slices", "Latents", "Quality", "Not measured", "its interval"):
        assert absent not in text


def test_the_same_audit_is_the_same_page(page, photograph):
    assert page(audit([example(crops(photograph, 3))])) == page(audit([example(crops(photograph, 3))]))


def test_every_metric_has_a_way_to_be_written():
    assert all(metric_style(name).label for name in METRICS)
    with pytest.raises(ValueError, match="metric 'mse': a page knows how to write psnr"):
        metric_style("mse")


def test_numbers_are_written_for_people():
    assert [size_text(value) for value in (0, 512, 999.4, 999.6, 103_071, 8.2e12)] == [
        *("0 B", "512 B", "999 B", "1 kB", "103 kB", "8.2 TB")
    ]
    assert [si_text(value) for value in (-1500, 0.25, 2_000_000, 999_999)] == [
        "\N{MINUS SIGN}1.5 k",
        "0.25",
        "2 M",
        "1 M",
    ]
    assert [fixed(value, 1) for value in (-1234.56, math.inf, -math.inf, math.nan)] == [
        "\N{MINUS SIGN}1,234.6",
        "∞",
        "\N{MINUS SIGN}∞",
        "NaN",
    ]
