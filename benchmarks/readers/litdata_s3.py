"""LitData from S3: chunks of 64 MB kept in a local folder, shuffled as it does."""

from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import downloader
from measure import Batches, measure_first, remote_arguments


def main() -> None:
    """Read; the dataset is there already."""
    url, cache, batch_size, orders = remote_arguments()
    # Its client refuses a server without TLS (0.2.76), and takes no option that would let it.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True

    def opened() -> Batches:
        dataset = StreamingDataset(url, cache_dir=cache, shuffle=True)
        loader = StreamingDataLoader(dataset, batch_size=batch_size, shuffle=True)
        return lambda: loader

    measure_first(opened, orders=orders)


if __name__ == "__main__":
    main()
