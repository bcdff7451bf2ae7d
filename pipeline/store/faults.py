"""Faults of the place a store is in: what a server fails is tried again, then one message says it all."""

import io
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from pipeline.media.retry import RetryPolicy, attempt, read_retrying
from schemas.outcome import Reason

_T = TypeVar("_T")

_POLICY = RetryPolicy(attempts=8, base_seconds=0.5, max_seconds=4.0)
"""The client of the server has its own attempts at each request (botocore five, a tenth of a second to some seconds
apart); these eight are at a whole operation. With both a run outlives an outage of about a minute."""


class StorageError(RuntimeError):
    """The place of a store cannot be read or written; the message says which, why, and what to do."""


def persist(operation: Callable[[], _T], *, url: str) -> _T:
    """Result of an operation on a server, tried again while it fails. It must be safe to repeat.

    Args:
        operation: The whole of it.
        url: What it is about.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The server refuses it, or failed it to the last attempt.
    """
    return attempt(lambda: _permitted(operation, url), url=url, policy=_POLICY, failure=_failure)


def open_persisting(open_once: Callable[[], BinaryIO], *, url: str) -> io.BufferedReader:
    """A file of a server for reading, whose opening and reads are tried again while they fail.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The server refuses it, or failed it to the last attempt; here or at any later read.
    """
    return read_retrying(lambda: (_permitted(open_once, url), None), url=url, policy=_POLICY, failure=_failure)


def _permitted(operation: Callable[[], _T], url: str) -> _T:
    try:
        return operation()
    except PermissionError as error:
        raise StorageError(
            f"{url}: the storage refuses it ({error}). Give this run credentials that may read, write, list and "
            "delete there, and start the same command again"
        ) from error


def _failure(reason: Reason, message: str, _attempts: int) -> Exception:
    if reason is Reason.MISSING:
        return FileNotFoundError(message)
    return StorageError(
        f"the storage fails: {message}. What is committed there is whole: see that the server answers, and start the "
        "same command again, it goes on from there"
    )
