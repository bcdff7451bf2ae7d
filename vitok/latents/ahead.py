"""Items of an iterator a few ahead of their use, made in one thread beside it."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], *, depth: int) -> Iterator[Item]:
    """The items, up to `depth` of them made before they are asked for; what their maker raises is raised here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="latents") as thread:
        waiting: deque[Future[Item | None]] = deque(thread.submit(next, items, None) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            # Not shutdown's cancel_futures: as the interpreter ends, it looks for a module that is gone.
            for future in waiting:
                future.cancel()
            thread.shutdown()
            items.close()
