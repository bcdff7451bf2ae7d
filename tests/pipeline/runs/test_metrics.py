"""Each worker's commits stand on Ray's metrics endpoint, under the documented names, on the loopback only."""

import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from pipeline.runs import metrics
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger

pytestmark = pytest.mark.cluster

SAMPLE = re.compile(r"^ray_(\w+)\{(.*)\} (\S+)$")
PATIENCE_SECONDS = 60  # workers report every ten


@pytest.fixture
def port(ray_here):
    """Port of the metrics endpoint of this node."""
    import ray  # not before `connect`: its network settings are read at import

    (node,) = ray.nodes()
    return node["MetricsExportPort"]


def samples(port):
    """What the endpoint says of our metrics, summed over workers: by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = Counter()
    for name, labels, value in (match.groups() for line in lines if (match := SAMPLE.match(line))):
        if name.startswith("vitok_"):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            kept = tuple((key, pairs[key]) for key in ("job", "outcome", "reason", "step") if key in pairs)
            found[name.removesuffix("_total"), kept] += float(value)
    return found


def listening(port):
    """Local addresses that listen on a port, in hex as the kernel says them."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {row[1].split(":")[0] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def test_what_workers_commit_stands_on_the_metrics_endpoint(corpus, port, tmp_path):
    job = (("job", "prepare"),)
    before = samples(port)
    summary = prepare(
        PrepareConfig(
            input=(str(corpus),), output=str(tmp_path), resolution=32, num_frames=4, tubelet="2x8", shard_size=8
        )
    )
    records = list(read_ledger(Folder(str(tmp_path))).values())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := samples(port) - before)[metrics.SHARDS, job] < summary.shards and time.monotonic() < deadline:
        time.sleep(0.5)

    assert found[metrics.SHARDS, job] == summary.shards == len(records) > 1
    clips = {key[1:]: count for (name, key), count in found.items() if name == metrics.CLIPS}
    reasons = sum((Counter(record.reasons) for record in records), Counter())
    assert clips == {(("outcome", "stored"), ("reason", "")): summary.stored} | {
        (("outcome", "rejected"), ("reason", reason)): count for reason, count in reasons.items()
    }
    written = [file.size_bytes for record in records for file in (record.file, record.outcomes) if file is not None]
    assert found[metrics.BYTES, job] == sum(written)
    steps = {dict(key)["step"]: value for (name, key), value in found.items() if name == metrics.STEP_SECONDS}
    assert {"decode", "commit"} <= steps.keys()
    assert found[f"{metrics.SHARD_SECONDS}_count", job] == summary.shards
    assert summary.worker_seconds == pytest.approx(sum(steps.values()))
    assert listening(port) == {"0100007F"}
