"""Items of an iterator a few ahead of their use, made in one thread beside it."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None], *, depth: int) -> Iterator[Item]:
    """The items, up to `depth` of them made before they are asked for; what their maker raises is raised here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="latents") as thread:
        try:
            waiting: deque[Future[Item | None]] = deque(thread.submit(next, items, None) for _ in range(depth))
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
            items.close()
