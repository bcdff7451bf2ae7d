"""The page of a store says what the store holds, pictures it, and leaves it whole."""

import shutil
from pathlib import Path

import pytest

from pipeline.report.store_examples import latent_examples
from pipeline.report.store_outcomes import clip_store_urls, losses_of, runs_of
from pipeline.runs.show import ShowConfig, show
from pipeline.store.documents import write_json
from pipeline.store.files import Folder
from pipeline.store.verify import check_totals, open_any_store, stray_files
from tests.pipeline.report.pages import check_alone
from vitok.latents.store import LatentStore

GOLDEN = Path(__file__).parents[2] / "golden" / "latents_v1"
FORMS = ("parquet-float16", "webdataset-float16")


@pytest.fixture(params=FORMS)
def latents(request, tmp_path):
    shutil.copytree(GOLDEN / request.param, tmp_path / "latents")
    return tmp_path / "latents"


def test_the_page_of_a_latent_store_stands_in_it_and_leaves_it_whole(latents):
    path = show(ShowConfig(store=str(latents)))
    assert path == str(latents / "report.html")
    page = check_alone(Path(path).read_text(encoding="utf-8"))
    store = open_any_store(Folder(str(latents)))
    assert check_totals(store) == []
    assert stray_files(store) == []
    assert "6 = 5 stored + 0 filtered + 1 rejected" in page.text
    assert str(store.document["fingerprint"]) in page.text
    for bucket in store.document["buckets"]:
        assert bucket.removeprefix("grid=") in page.text
    (loss,) = losses_of(store)
    assert loss.count == 1
    assert loss.reason in page.text
    assert loss.example_message in page.text
    frames = page.frames()
    grids = {LatentStore(str(latents)).take([place]).latents["mean"].shape[1:4] for place in range(5)}
    assert {shown.shape[:3] for shown in frames.values()} == grids
    assert len(frames) == 5


def test_latents_stand_in_the_order_of_the_store_evenly_apart(latents):
    store = open_any_store(Folder(str(latents)))
    reader = LatentStore(str(latents))
    keys = [key for batch in reader.batches(9) for key in batch.columns["key"]]
    assert [example.key for example in latent_examples(store, None, 99)] == keys
    assert [example.key for example in latent_examples(store, None, 1)] == [keys[2]]
    assert latent_examples(store, None, 0) == []


def test_a_page_elsewhere_leaves_no_trace_in_the_store(latents, tmp_path, digests):
    before = digests(latents)
    output = tmp_path / "pages" / "of latents.html"
    assert show(ShowConfig(store=str(latents), output=str(output), num_examples=0)) == str(output)
    assert "No clip is pictured." in output.read_text(encoding="utf-8")
    assert digests(latents) == before


def test_starts_and_their_ends_are_listed_in_order(latents):
    folder = Folder(str(latents))
    for name, error in (("20260101T000000-2", None), ("20260101T000000-1", "Stopped: <b>")):
        record = {"job": "encode", "started": "2026-01-01", "seconds": {"total": 1.25}, "error": error}
        write_json(folder, f"runs/{name}/record.json", record)
        write_json(folder, f"runs/{name}/config.json", {"job": "encode", "config": {"shards": f"/clips/{name}"}})
    assert [run.error for run in runs_of(folder)] == ["Stopped: <b>", ""]
    assert clip_store_urls(folder) == ["/clips/20260101T000000-2", "/clips/20260101T000000-1"]
    page = check_alone(Path(show(ShowConfig(store=str(latents)))).read_text(encoding="utf-8"))
    assert "encode 2026-01-01 Stopped: <b> 1.2 encode 2026-01-01 done 1.2" in page.text


def test_what_cannot_be_shown_is_refused_before_work(tmp_path, latents):
    with pytest.raises(ValueError, match=r"--output: got 'page', expected the name of an .html file"):
        ShowConfig(store=str(latents), output="page")
    with pytest.raises(ValueError, match="--num-examples: got -1"):
        ShowConfig(store=str(latents), num_examples=-1)
    with pytest.raises(ValueError, match=r"holds no store.json"):
        show(ShowConfig(store=str(tmp_path / "nothing")))
    with pytest.raises(ValueError, match=r"holds no store.json"):
        show(ShowConfig(store=str(latents), shards=str(tmp_path / "nothing")))
