"""Items of an iterator a few ahead of their use, made in one thread beside it."""

from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from threading import Thread, current_thread, main_thread
from typing import TypeVar

Item = TypeVar("Item")

_LOOK_SECONDS = 0.2
"""Between two looks at whether the program is at its end, while no item is asked for."""


def ahead(items: Generator[Item, None, None], *, depth: int) -> Iterator[Item]:
    """The items, up to `depth` of them made before they are asked for; what their maker raises is raised here."""
    made: SimpleQueue[Item | None] = SimpleQueue()
    room: SimpleQueue[bool] = SimpleQueue()
    errors: list[BaseException] = []

    def make_one() -> bool:
        item = next(items, None)
        made.put(item)
        return item is not None

    def make() -> None:
        try:
            while _next_of(room) and make_one():
                pass
        except BaseException as error:
            errors.append(error)
            made.put(None)

    # Not a daemon: those are torn from their work as the interpreter ends, which torch answers with an abort.
    thread = Thread(target=make, name="latents")
    thread.start()
    for _ in range(depth):
        room.put(True)
    try:
        while (item := made.get()) is not None:
            room.put(True)
            taken = [item]
            del item
            yield taken.pop()  # who asks for the next has no use for this one: nothing here holds it
        if errors:
            raise errors[0]
    finally:
        room.put(False)
        if current_thread() is not thread:  # which may be where this is collected
            thread.join()
            items.close()


def _next_of(room: SimpleQueue[bool]) -> bool:
    while True:
        try:
            return room.get(timeout=_LOOK_SECONDS)
        except Empty:
            if not main_thread().is_alive():
                raise RuntimeError("the program is at its end: nothing more is read") from None
