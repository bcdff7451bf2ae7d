"""MosaicML Streaming from S3: shards of MDS kept in a local folder, shuffled as it does by default."""

import boto3.s3.transfer  # noqa: F401 - what a first download imports, off the clock
from measure import Batches, measure_first, remote_arguments
from streaming import StreamingDataset
from torch.utils.data import DataLoader


def main() -> None:
    """Read; the dataset is there already."""
    url, cache, batch_size, orders = remote_arguments()

    def opened() -> Batches:
        dataset = StreamingDataset(remote=url, local=cache, shuffle=True, batch_size=batch_size, num_canonical_nodes=1)
        loader = DataLoader(dataset, batch_size=batch_size)
        return lambda: (batch["latent"] for batch in loader)

    measure_first(opened, orders=orders)


if __name__ == "__main__":
    main()
