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
REPORT_SECONDS = 10  # workers report so often
PATIENCE_SECONDS = 60


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
    time.sleep(REPORT_SECONDS)  # workers of tests before this one have their say first
    before = samples(port)
    summary = prepare(
        PrepareConfig(
            input=(str(corpus),), output=str(tmp_path), resolution=32, num_frames=4, tubelet="2x8", shard_size=8
        )
    )
    records = list(read_ledger(Folder(str(tmp_path))).values())
    reasons = sum((Counter(record.reasons) for record in records), Counter())
    written = [file.size_bytes for record in records for file in (record.file, record.outcomes) if file is not None]
    counted = {
        (metrics.SHARDS, job): len(records),
        (metrics.BYTES, job): sum(written),
        (f"{metrics.SHARD_SECONDS}_count", job): len(records),
        (metrics.CLIPS, (*job, ("outcome", "stored"), ("reason", ""))): summary.stored,
    } | {
        (metrics.CLIPS, (*job, ("outcome", "rejected"), ("reason", reason))): count for reason, count in reasons.items()
    }
    timed = {metrics.STEP_SECONDS, f"{metrics.SHARD_SECONDS}_sum", f"{metrics.SHARD_SECONDS}_bucket"}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:  # Ray takes in the report of a worker metric by metric, and may be asked between two of them
        found = Counter({key: count for key, count in (samples(port) - before).items() if job[0] in key[1]})
        steps = {
            dict(labels)["step"]: seconds for (name, labels), seconds in found.items() if name == metrics.STEP_SECONDS
        }
        whole = sum(steps.values()) == pytest.approx(summary.worker_seconds)
        counts = {key: count for key, count in found.items() if key[0] not in timed}
        if (whole and counts == counted) or time.monotonic() > deadline:
            break
        time.sleep(0.5)

    assert summary.shards == len(records) > 1
    assert counts == counted
    assert whole
    assert {"decode", "commit"} <= steps.keys()
    assert listening(port) == {"0100007F"}
