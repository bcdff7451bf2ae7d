"""Pages in a real browser: they move, sort, play and fit, and nothing is said on the console."""

import json
import math

import numpy as np
import pytest
from playwright.sync_api import expect

from pipeline.report.audit import write_audit_page
from pipeline.report.study import write_study
from pipeline.report.training import write_training_page
from pipeline.store.files import Folder
from tests.pipeline.report.pages import audit, crops, example
from tests.pipeline.report.test_study import PROTOCOL, scaled

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
HOSTILE = "</script><img src=x onerror=alert(1)><b>" + "W" * 300


@pytest.fixture(scope="module")
def audit_page(tmp_path_factory, photograph):
    """An audit with clips and images, one of which has names that would break a page."""
    folder = tmp_path_factory.mktemp("audit")
    moving, still = crops(photograph, 6), crops(photograph, 1, side=256)
    examples = [
        example(moving, key="moving", metrics={"psnr": 20.0, "ssim": 0.9}, label="coffee"),
        example(still, key="still", metrics={"psnr": 30.0, "ssim": 0.1}),
        example(still, key="lossless", error=0, candidate="theirs", metrics={"psnr": math.inf, "ssim": 1.0}),
        example(still, key=HOSTILE, label=HOSTILE, metrics={"psnr": 25.0, "ssim": 0.5}, media_uri=HOSTILE),
        *(example(still, key=f"far-{number}", metrics={"psnr": 40.0 + number}) for number in range(20)),
    ]
    write_audit_page(Folder(str(folder)), "report.html", audit(examples))
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser):
    """Open a page; at the end of the test nothing may have been said on the console, and no error thrown."""
    said, contexts = [], []

    def opened(url, *, viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def card(page, key):
    return page.locator("article.example").filter(has=page.get_by_role("heading", name=key, exact=True))


def shown(canvas):
    """Red, green, blue of the pixels on a canvas, [H, W, 3]."""
    width, height, values = canvas.evaluate(
        "c => [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def when_drawn(page, key):
    """Its card, in the window, its pictures drawn."""
    found = card(page, key)
    found.scroll_into_view_if_needed()
    found.locator("canvas[data-frame]").nth(2).wait_for()
    return found


def cut(found):
    """Where the slider of a card stands, in per cent from the left."""
    return float(found.locator(".stack").evaluate("s => getComputedStyle(s).getPropertyValue('--cut')").rstrip("%"))


def test_the_pictures_are_those_of_the_clip(opened, audit_page, photograph):
    found = when_drawn(opened(audit_page, reduced_motion="reduce"), "moving")
    original, first = found.get_by_label("original of moving"), crops(photograph, 1)[0]
    np.testing.assert_array_equal(shown(original), first)
    expected = np.minimum(first.astype(int) + 5, 255)
    np.testing.assert_array_equal(shown(found.get_by_label("reconstruction of moving")), expected)
    np.testing.assert_array_equal(shown(found.get_by_label("difference of moving")), 4 * (expected - first))


def test_the_slider_follows_the_mouse(opened, audit_page):
    page = opened(audit_page)
    found = when_drawn(page, "still")
    box = found.locator(".stack").bounding_box()
    assert cut(found) == 50
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    page.mouse.down()
    assert cut(found) == pytest.approx(25, abs=1)
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 90, steps=4)
    assert cut(found) == pytest.approx(80, abs=1)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"])
    assert cut(found) == pytest.approx(80, abs=1)
    clip = found.locator("canvas.above").evaluate("c => getComputedStyle(c).clipPath")
    # What is left of the handle is the original, which lies above.
    assert clip.startswith("inset(0px ")


def test_the_slider_follows_a_finger_and_the_arrow_keys(opened, audit_page):
    page = opened(audit_page, viewport=PHONE, has_touch=True, is_mobile=True)
    found = when_drawn(page, "still")
    box = found.locator(".stack").bounding_box()
    page.touchscreen.tap(box["x"] + 0.7 * box["width"], box["y"] + 30)
    assert cut(found) == pytest.approx(70, abs=1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert cut(found) == pytest.approx(68, abs=1)
    found.get_by_role("slider", name="Share of the original").press("Home")
    assert cut(found) == 0


def test_a_clip_plays_in_step_stops_and_is_moved_by_hand(opened, audit_page, photograph):
    page = opened(audit_page)
    found = when_drawn(page, "moving")
    frames = "a => [...a.querySelectorAll('canvas')].map(c => Number(c.dataset.frame))"
    seen = set()
    for _ in range(200):
        together = found.evaluate(frames)
        assert len(set(together)) == 1
        seen.add(together[0])
        if len(seen) == 6:
            break
        page.wait_for_timeout(20)
    assert seen == set(range(6))
    found.get_by_role("button", name="Pause").click()
    stopped = found.evaluate(frames)
    page.wait_for_timeout(400)
    assert found.evaluate(frames) == stopped
    found.get_by_role("slider", name="Frame").press("End")
    assert found.evaluate(frames) == [5, 5, 5]
    assert found.locator("output").inner_text() == "6 / 6"
    np.testing.assert_array_equal(shown(found.get_by_label("original of moving")), crops(photograph, 6)[5])
    found.get_by_role("button", name="Play").click()
    page.wait_for_function("a => a.querySelector('canvas').dataset.frame !== '5'", arg=found.element_handle())


def test_a_clip_stands_still_where_motion_is_not_wanted(opened, audit_page):
    page = opened(audit_page, reduced_motion="reduce")
    found = when_drawn(page, "moving")
    page.wait_for_timeout(300)
    assert found.locator("canvas").first.get_attribute("data-frame") == "0"
    assert found.get_by_role("button", name="Play").is_visible()


def test_pictures_far_from_the_window_are_not_decoded(opened, audit_page):
    page = opened(audit_page)
    when_drawn(page, "moving")
    assert card(page, "far-19").locator("canvas[data-frame]").count() == 0
    when_drawn(page, "far-19")
    page.wait_for_function("document.querySelector('article canvas').dataset.frame === undefined")
    when_drawn(page, "moving")


def test_tables_sort_by_any_column_both_ways(opened, audit_page):
    page = opened(audit_page)
    table = page.locator("#slices table")
    first = table.locator("tbody tr > :first-child")
    assert first.all_inner_texts() == ["cat", "ant", "bee"]
    for heading, ascending in (("label", ["ant", "bee", "cat"]), ("clips", ["ant", "cat", "bee"])):
        button = table.get_by_role("button", name=heading)
        button.click()
        expect(first).to_have_text(ascending)
        button.press("Enter")
        expect(first).to_have_text(ascending[::-1])
    column = table.locator("th", has=page.get_by_role("button", name="clips"))
    assert column.get_attribute("aria-sort") == "descending"
    assert table.locator("th[aria-sort]").count() == 1
    ssim = page.locator("#summary").get_by_role("button", name="SSIM")
    for _ in range(2):  # what has no value stays last
        ssim.click()
        assert page.locator("#summary tbody tr").last.inner_text().startswith("theirs")


def test_the_gallery_is_ordered_and_filtered(opened, audit_page):
    page = opened(audit_page)
    names = "g => [...g.children].filter(c => !c.hidden).map(c => c.querySelector('h3').textContent)"
    gallery = page.locator("#examples")
    assert gallery.evaluate(names)[:3] == ["moving", HOSTILE, "still"]
    page.get_by_label("Order").select_option("worst SSIM first")
    assert gallery.evaluate(names)[:3] == ["still", HOSTILE, "moving"]
    page.get_by_label("Order").select_option("best PSNR first")
    assert gallery.evaluate(names)[:2] == ["lossless", "far-19"]
    page.get_by_label("Candidate").select_option("theirs")
    assert gallery.evaluate(names) == ["lossless"]
    assert page.locator(".controls output").inner_text() == "1 of 24"
    page.get_by_label("Candidate").select_option("all")
    page.get_by_label("Find").fill("COFF")
    assert gallery.evaluate(names) == ["moving"]


def test_the_toggle_turns_light_to_dark_and_back(opened, audit_page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(251, 251, 250)", "rgb(21, 23, 26)"
    for scheme, colours in (("light", [light, dark, light]), ("dark", [dark, light, dark])):
        page = opened(audit_page, color_scheme=scheme)
        seen = [page.evaluate(ground)]
        for _ in range(2):
            page.locator("#theme").click()
            seen.append(page.evaluate(ground))
        assert seen == colours


def test_the_protocol_s_id_is_copied(opened, audit_page):
    page = opened(audit_page, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "protocol-5ca1ab1e"
    assert page.evaluate("getSelection().toString()") == "protocol-5ca1ab1e"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_is_wider_than_its_window(opened, audit_page, viewport, tmp_path):
    folder = Folder(str(tmp_path))
    write_study(folder, points=scaled(), protocol=PROTOCOL, failed={HOSTILE: HOSTILE})
    points = [(step, {"tokenizer/total": 1 / step}) for step in (1, 2)]
    identity = {HOSTILE: HOSTILE}
    write_training_page(
        folder, "training.html", points=points, player="tokenizer", pictures="pictures", identity=identity
    )
    for url in (audit_page, *((tmp_path / name).as_uri() for name in ("study.html", "training.html"))):
        page = opened(url, viewport=viewport)
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_no_script_but_the_page_s_own_runs(browser, audit_page):
    # Were a text to become markup after all, the page's policy would still stop it.
    text = json.dumps("<img src=x onerror=\"document.title = 'run'\"><script>document.title = 'run'</script>")
    page = browser.new_page()
    page.goto(audit_page)
    blocked = page.evaluate(
        f"""() => new Promise(done => {{
            document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
            document.querySelector("main").insertAdjacentHTML("beforeend", {text});
        }})"""
    )
    assert blocked in ("img-src", "script-src-attr")
    assert page.title() == "Reconstruction audit"
    page.close()
