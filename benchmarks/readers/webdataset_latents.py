"""WebDataset over the tars of our store: shards shuffled, then a buffer of 1000 samples, as its documents advise."""

import warnings

import webdataset
from measure import arguments, measure


def main() -> None:
    """Read; the tars are those of our store."""
    _, _, folder, batch_size, runs, orders = arguments()
    warnings.simplefilter("ignore", ResourceWarning)
    tars = sorted(map(str, folder.glob("grid=*/*.tar")))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000).decode().to_tuple("mean.npy")
    loader = webdataset.WebLoader(dataset.batched(batch_size), batch_size=None)
    measure(lambda: (batch for (batch,) in loader), runs=runs, orders=orders)


if __name__ == "__main__":
    main()
