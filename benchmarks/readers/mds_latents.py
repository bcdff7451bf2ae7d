"""MosaicML Streaming: shards of MDS, shuffled as it does by default."""

import numpy as np
from measure import arguments, measure
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader


def main() -> None:
    """Write or read."""
    what, truth, folder, batch_size, runs, orders = arguments()
    if what == "write":
        latents = np.load(truth, mmap_mode="r").view(np.float16)
        columns = {"latent": f"ndarray:float16:{latents.shape[1]}"}
        with MDSWriter(out=str(folder), columns=columns) as writer:
            for latent in latents:
                writer.write({"latent": np.asarray(latent)})
        return
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch_size, num_canonical_nodes=1)
    loader = DataLoader(dataset, batch_size=batch_size)
    measure(lambda: (batch["latent"] for batch in loader), runs=runs, orders=orders)


if __name__ == "__main__":
    main()
