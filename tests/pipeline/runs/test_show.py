"""`vitok show` on real stores: what is on the page is what is in the store."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from einops import rearrange

from jobs.show_store import show_store
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock
from pipeline.runs.show import ShowConfig, show
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.verify import open_any_store
from tests.pipeline.report.pages import check_alone

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("clips"))
    flags = {"resolution": 32, "num_frames": 4, "fps": "2", "tubelet": "2x8", "shard_size": 3, "num_workers": 1}
    prepare(PrepareConfig(input=(str(corpus),), output=output, codec="png", **flags))
    return output


@pytest.fixture(scope="module")
def latents(clips, tokenizer, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("latents"))
    encode(EncodeConfig(shards=clips, tokenizer=tokenizer, output=output, shard_size=3, batch_size=2, num_workers=1))
    return output


def page_of(store, **changes):
    return check_alone(Path(show(ShowConfig(store=store, **changes))).read_text(encoding="utf-8"))


def stored_clips(url):
    store = open_any_store(Folder(url))
    for row in store.rows:
        with store.folder.open(row.path) as stream:
            yield from read_clips(stream, where=row.path)


def test_the_page_of_a_clip_store_shows_its_clips_and_its_losses(clips):
    page = page_of(clips, num_examples=99)
    found = page.frames()
    stored = {f"clip of {clip.metadata.key}": clip.pixels for clip in stored_clips(clips)}
    assert set(found) == set(stored)
    for name, frames in found.items():
        np.testing.assert_array_equal(frames, stored[name])
    counts = open_any_store(Folder(clips)).document["counts"]
    assert f"{counts['planned']} = {counts['stored']} stored + 0 filtered + {counts['rejected']} rejected" in page.text
    for reason in ("unknown_format", "corrupt", "empty_file"):
        assert re.search(rf"rejected {reason} \w+ 1 ", page.text)
    assert "prepare" in page.text
    assert verify(VerifyConfig(store=clips)).problems == []


def test_a_few_clips_are_spread_over_the_store(clips):
    keys = [clip.metadata.key for clip in stored_clips(clips)]
    titles = re.findall(r"clip of (\S+)", " ".join(page_of(clips, num_examples=3).frames()))
    places = [keys.index(title) for title in titles]
    assert places == sorted(places)
    assert np.diff([-1, *places, len(keys)]).max() <= len(keys) / 2


def test_latents_stand_beside_the_clips_that_they_were_made_of(clips, latents, tmp_path, capsys):
    page = page_of(latents, num_examples=99)
    found = page.frames()
    stored = {clip.metadata.key: clip.pixels for clip in stored_clips(clips)}
    assert {name.partition(" of ")[2] for name in found} == set(stored)
    for key, pixels in stored.items():
        np.testing.assert_array_equal(found[f"clip of {key}"], pixels)
        tubelets = rearrange(pixels, "(T q) (H p) (W r) c -> T H W (q p r c)", q=min(2, len(pixels)), p=8, r=8)
        assert found[f"latent of {key}"].shape[:3] == tubelets.shape[:3]
    document = open_any_store(Folder(latents)).document
    assert document["tokenizer"]["fingerprint"] in page.text
    # The same through the job, with the clip store named, on a page elsewhere.
    output = str(tmp_path / "page.html")
    config = ShowConfig(store=latents, output=output, shards=clips, num_examples=99)
    assert show_store(config, StartClock(started=0.0)) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert Path(output).read_bytes() == Path(latents, "report.html").read_bytes()


def test_clips_are_looked_for_in_the_shards_that_the_latents_were_made_of(clips, latents, tmp_path):
    copy = tmp_path / "clips"
    shutil.copytree(clips, copy)
    (shown,) = (name for name in page_of(latents, num_examples=1).frames() if name.startswith("clip of "))
    for path in copy.glob("grid=*/shard-*.tar"):
        with path.open("rb") as stream:
            keys = [clip.metadata.key for clip in read_clips(stream, where=path.name)]
        if shown.removeprefix("clip of ") not in keys:
            path.write_bytes(b"damaged")
    assert shown in page_of(latents, shards=str(copy), num_examples=1).frames()


def test_without_the_clip_store_latents_are_shown_alone(latents, tmp_path):
    config_path = next(Path(latents).glob("runs/*/config.json"))
    document = json.loads(config_path.read_text())
    document["config"]["shards"] = str(tmp_path / "gone")
    kept = config_path.read_text()
    config_path.write_text(json.dumps(document))
    try:
        names = page_of(latents).frames()
    finally:
        config_path.write_text(kept)
    assert names
    assert all(name.startswith("latent of ") for name in names)
