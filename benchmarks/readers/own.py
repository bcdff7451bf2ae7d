"""What a training asks of our reader beyond speed: first batch, resume, waits, memory. Prints JSON: STORE BATCH MANY.

MANY is a store of very many small latents.
"""

import json
import sys
import time
from pathlib import Path

import torch

from vitok.latents.store import LatentStore

STEP_SECONDS = 0.01
STEPS = 200


def memory_mib() -> float:
    """Memory of this process that is not the page cache's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def main() -> None:
    """Measure, each once."""
    url, batch_size, many = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    found = {}
    store = LatentStore(url)
    batches = iter(store.dataset(batch_size=batch_size, normalize=False, endless=True))
    next(batches)
    waited = 0.0
    for _ in range(STEPS):
        time.sleep(STEP_SECONDS)
        started = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - started
        del batch  # the step's own work, as whatever else it does
    batches.close()
    found["wait_share"] = waited / (waited + STEPS * STEP_SECONDS)
    sizes = []
    for _ in range(4):
        for _batch in store.dataset(batch_size=batch_size, normalize=False):
            pass
        sizes.append(memory_mib())
    found["memory_after_first_mib"], found["memory_after_last_mib"] = sizes[0], sizes[-1]
    started = time.perf_counter()
    dataset = LatentStore(many).dataset(batch_size=batch_size, normalize=False)
    next(iter(dataset))
    found["first_batch_seconds"] = time.perf_counter() - started
    steps = dataset.num_steps() // 2
    for batch in dataset:
        if batch.step == steps:
            break
    started = time.perf_counter()
    resumed = LatentStore(many).dataset(batch_size=batch_size, normalize=False)
    resumed.load_state_dict(batch.state)
    assert next(iter(resumed)).step == steps + 1
    found["resumed_batch_seconds"] = time.perf_counter() - started
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
