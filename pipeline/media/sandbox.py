"""A child process for decoders: one that crashes or hangs costs the media at hand, and nothing else.

Decoders are C libraries on hostile bytes. The child runs them and streams its results back; its death or its silence
becomes a RejectClip of the request it was at, and the next request finds a new child.
"""

import fcntl
import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Generic, TypeVar, cast

from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

_START_TIMEOUT_S = 120.0
"""Wall time in which a child must have imported what it runs."""

Request = TypeVar("Request")
Result = TypeVar("Result")

_CRASHES = 2
"""Deaths of the child after which its request is given up: the first may have come from outside."""
_AHEAD = 2
"""Requests that the child holds: it begins the next while the results of the last are being written."""
_AHEAD_BYTES = 32 * 2**10
"""Largest request that is sent ahead: it must fit into the pipe while the child does not read."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One result of a request, or the exception that ended it."""

    result: object = None
    error: Exception | None = None


class Sandbox(Generic[Request, Result]):
    """A function over requests that runs in a child process.

    The child starts with the first request, and dies with this process whatever becomes of either.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Request], Iterator[Result]]],
        *,
        count: Callable[[Request], int],
        timeout_s: float,
    ) -> None:
        """Prepare; nothing starts yet.

        Args:
            make: Picklable; called once in each child and gives the function: from a request to its results, the same
                each time.
            count: How many results a request has.
            timeout_s: Wall time from one result to the next.
        """
        self._make = make
        self._count = count
        self._timeout_s = timeout_s
        self._child: _Child | None = None
        self._busy = False

    def run(self, requests: Iterable[Request]) -> Iterator[Iterator[Result]]:
        """For each request, in order, its results as they come; asking for the next ends those of the one before.

        Results raise what the function raised, or RejectClip: `decoder_crashed` where the child died of the request
        twice, `decoder_timeout` where it fell silent.
        """
        if self._busy:
            self.close()  # a run that was left before its end has results on the way
        waiting = ((count := self._count(request), pickle.dumps((request, count))) for request in requests)
        sent: deque[tuple[int, bytes]] = deque()
        ahead: tuple[int, bytes] | None = None
        while True:
            while len(sent) < _AHEAD and (ahead := ahead or next(waiting, None)) is not None:
                if sent and len(ahead[1]) > _AHEAD_BYTES:
                    break
                sent.append(ahead)
                self._give(ahead)
                ahead = None
            self._busy = bool(sent)
            if not sent:
                return
            results = self._results(sent)
            yield results
            with suppress(RejectClip):
                for _ in results:
                    pass
            sent.popleft()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _give(self, request: tuple[int, bytes]) -> None:
        if self._child is None:
            self._child = _Child(self._make)
        self._child.send(request[1])

    def _results(self, sent: deque[tuple[int, bytes]]) -> Iterator[Result]:
        count, _ = sent[0]
        crashes = told = given = 0
        while told < count:
            assert self._child is not None
            try:
                answer = self._child.receive(self._timeout_s)
            except EOFError:
                cause = self._child.cause_of_death()
                crashes += 1
                if crashes == _CRASHES:
                    self._restart(list(sent)[1:])
                    message = f"the decoder's process {cause}"
                    raise RejectClip(Reason.DECODER_CRASHED, message, attempts=crashes) from None
                self._restart(sent)
                told = 0
                continue
            except TimeoutError:
                self._restart(list(sent)[1:])
                raise RejectClip(Reason.DECODER_TIMEOUT, f"nothing was decoded for {self._timeout_s:g} s") from None
            if answer.error is not None:
                raise answer.error
            told += 1
            if told > given:  # the others were given before a crash
                given += 1
                yield cast(Result, answer.result)

    def _restart(self, requests: Iterable[tuple[int, bytes]]) -> None:
        """A new child, with the requests that are still to be answered."""
        self.close()
        for request in requests:
            self._give(request)


class _Child:
    """A process that runs one function, and the pipe to it."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._pipe, theirs = Pipe()
        lifeline, ours = os.pipe()
        # Not multiprocessing: it would import this process's main module, which in a Ray worker is all of Ray.
        self._process = subprocess.Popen(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, str(theirs.fileno()), str(lifeline)],
            pass_fds=(theirs.fileno(), lifeline),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is this process's to handle
        )
        theirs.close()
        os.close(lifeline)
        # A child does not outlive the sandbox that it belongs to.
        self.kill = weakref.finalize(self, _end, self._process, self._pipe, ours)
        self._poll = select.poll()
        self._poll.register(self._pipe.fileno(), select.POLLIN)
        self.send(pickle.dumps(make))
        try:
            ready = self.receive(_START_TIMEOUT_S)
        except (EOFError, TimeoutError):
            self.kill()
            raise RuntimeError("the decoder's process did not start; its error output says why") from None
        if ready.error is not None:
            self.kill()
            raise ready.error

    def send(self, request: bytes) -> None:
        with suppress(OSError):  # it is dead, as the next `receive` will find
            self._pipe.send_bytes(request)

    def receive(self, timeout_s: float) -> _Answer:
        """The next answer.

        Raises:
            EOFError: The process died.
            TimeoutError: Nothing came in time.
        """
        if not self._poll.poll(1000 * timeout_s):
            raise TimeoutError
        try:
            answer: _Answer = self._pipe.recv()
        except ConnectionResetError:
            raise EOFError from None
        return answer

    def cause_of_death(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _end(process: "subprocess.Popen[bytes]", pipe: "Connection[object, object]", lifeline: int) -> None:
    process.kill()
    process.wait()
    pipe.close()
    os.close(lifeline)


def _serve(pipe: "Connection[object, object]") -> None:
    """The child's life: requests in, results out, until the other end closes."""
    make = pipe.recv()
    assert callable(make)
    try:
        function = make()
    except Exception as error:
        pipe.send(_Answer(error=_placed(error)))
        return
    pipe.send(_Answer())
    # Decoders write what they think of a file to the terminal; what matters of it is in the reject.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    with suppress(EOFError, BrokenPipeError):
        while True:
            request, count = cast(tuple[object, int], pipe.recv())
            try:
                given = 0
                for result in islice(function(request), count):
                    pipe.send(_Answer(result))
                    given += 1
                if given < count:
                    raise RuntimeError(f"a request gave {given} results, expected {count}")
            except BrokenPipeError:
                raise
            except RejectClip as error:
                pipe.send(_Answer(error=error))
            except Exception as error:
                pipe.send(_Answer(error=_placed(error)))


def _placed(error: Exception) -> Exception:
    """With where it was raised, which a pipe does not carry."""
    error.add_note("In the decoder's process:\n" + traceback.format_exc())
    return error


def _die_with_parent(lifeline: int) -> None:
    """Let the kernel end this process as soon as the other end of `lifeline` closes, even while a decoder hangs."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # whose default is the end
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


if __name__ == "__main__":
    from pipeline.media import sandbox  # whose classes, not those of __main__, are what the pipe's ends exchange

    sandbox._die_with_parent(int(sys.argv[2]))
    sandbox._serve(Connection(int(sys.argv[1])))
