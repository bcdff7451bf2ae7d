"""Items made ahead: all of them in their order, errors where they happen, and no thread that stays."""

import gc
import threading

import pytest

from vitok.latents.ahead import ahead


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "latents"]


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_items_come_in_their_order(depth):
    assert list(ahead((number for number in range(20)), depth=depth)) == list(range(20))
    assert not _threads()


def test_no_more_are_made_than_asked_for():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    iterator = ahead(items(), depth=2)
    for taken in range(1, 10):
        next(iterator)
        assert len(made) <= taken + 2
    iterator.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("shard 3: damaged")

    iterator = ahead(items(), depth=2)
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(ValueError, match="shard 3: damaged"):
        next(iterator)
    assert not _threads()


def test_an_iteration_that_is_left_closes_the_maker():
    closed = []

    def items():
        try:
            yield from range(20)
        finally:
            closed.append(True)

    for number in ahead(items(), depth=3):
        if number == 4:
            break
    assert closed == [True]
    assert not _threads()


def test_an_iteration_may_be_collected_by_its_own_thread():
    left = threading.Event()

    def items():
        yield 1
        assert left.wait(timeout=60)
        gc.collect()
        yield 2

    iterator = ahead(items(), depth=2)
    assert next(iterator) == 1
    (thread,) = _threads()
    cycle = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    left.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
