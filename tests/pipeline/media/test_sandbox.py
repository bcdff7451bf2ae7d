"""A decoder's crash or hang costs the request at hand; every other request has its results, in order."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.media.reject import RejectClip
from pipeline.media.sandbox import Sandbox
from schemas.outcome import Reason

COUNT = 3


class Decoder:
    """Gives COUNT results for a request; some requests are poison."""

    def __init__(self, folder):
        self._folder = Path(folder)

    def __call__(self, request):
        if request == "crash":
            ctypes.string_at(0)
        if request == "crash at the end":
            yield from range(COUNT - 1)
            os.kill(os.getpid(), signal.SIGSEGV)
        if request == "killed once" and not (self._folder / "killed").exists():
            yield (os.getpid(), request, 0)
            (self._folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if request == "leave":
            os._exit(7)
        if request == "hang":
            time.sleep(1000)
        if request == "reject":
            raise RejectClip(Reason.CORRUPT, "cut off")
        if request == "fault":
            raise ZeroDivisionError("of ours")
        if request == "too few":
            return
        if request == "large":
            yield from [bytes(10**6)] * COUNT
            return
        yield from ((os.getpid(), request, number) for number in range(COUNT))


@pytest.fixture
def sandbox(tmp_path):
    made = Sandbox(partial(Decoder, str(tmp_path)), count=lambda _: COUNT, timeout_s=2)
    yield made
    made.close()


def outcomes(sandbox, requests):
    """For each request what its results were, or the reason why it ended."""
    found = []
    for results in sandbox.run(requests):
        try:
            found.append(list(results))
        except RejectClip as error:
            found.append(error)
    return found


def test_results_come_in_order_from_one_child(sandbox):
    requests = [str(number) for number in range(20)]
    found = outcomes(sandbox, requests)
    child = found[0][0][0]
    assert child != os.getpid()
    assert found == [[(child, request, number) for number in range(COUNT)] for request in requests]
    assert outcomes(sandbox, ["again"])[0][0][0] == child


@pytest.mark.parametrize(
    ("poison", "reason", "message"),
    [
        ("crash", Reason.DECODER_CRASHED, "the decoder's process died of SIGSEGV"),
        ("crash at the end", Reason.DECODER_CRASHED, "the decoder's process died of SIGSEGV"),
        ("leave", Reason.DECODER_CRASHED, "the decoder's process ended with exit code 7"),
        ("hang", Reason.DECODER_TIMEOUT, "nothing was decoded for 2 s"),
        ("reject", Reason.CORRUPT, "cut off"),
    ],
)
def test_poison_costs_itself(sandbox, poison, reason, message):
    before, ended, after, last = outcomes(sandbox, ["a", poison, "b", "c"])
    assert (ended.reason, ended.message) == (reason, message)
    assert ended.attempts == (2 if reason is Reason.DECODER_CRASHED else 1)
    assert [[result[1:] for result in results] for results in (before, after, last)] == [
        [(request, number) for number in range(COUNT)] for request in ("a", "b", "c")
    ]


def test_poison_after_poison(sandbox):
    found = outcomes(sandbox, ["crash", "crash", "reject", "leave", "a"])
    assert [getattr(entry, "reason", None) for entry in found] == [
        Reason.DECODER_CRASHED,
        Reason.DECODER_CRASHED,
        Reason.CORRUPT,
        Reason.DECODER_CRASHED,
        None,
    ]


def test_results_before_a_crash_are_given_once(sandbox):
    given = []
    with pytest.raises(RejectClip):
        given.extend(next(sandbox.run(["crash at the end"])))
    assert given == list(range(COUNT - 1))


def test_a_child_that_was_killed_from_outside_costs_nothing(sandbox):
    first, second = outcomes(sandbox, ["killed once", "a"])
    assert [result[2] for result in first] == [0, 1, 2]
    assert first[0][0] != first[1][0]
    assert len(second) == COUNT


def test_results_that_are_not_taken_are_not_those_of_another_request(sandbox):
    runs = sandbox.run(["a", "crash at the end", "b"])
    assert next(next(runs))[1:] == ("a", 0)
    next(runs)
    assert [result[1:] for result in next(runs)] == [("b", number) for number in range(COUNT)]
    assert next(next(sandbox.run(["c", "d"])))[1:] == ("c", 0)
    assert outcomes(sandbox, ["e"])[0][0][1:] == ("e", 0)


def test_a_fault_of_ours_is_raised_with_where_it_was(sandbox):
    results = sandbox.run(["fault"])
    with pytest.raises(ZeroDivisionError, match="of ours") as raised:
        list(next(results))
    assert "in __call__" in raised.value.__notes__[0]


def test_fewer_results_than_were_said_are_a_fault_of_ours(sandbox):
    with pytest.raises(RuntimeError, match="gave 0 results, expected 3"):
        list(next(sandbox.run(["too few"])))


def test_results_larger_than_a_pipe_holds_come_whole(sandbox):
    first, second = outcomes(sandbox, ["large", "large"])
    assert first == second == [bytes(10**6)] * COUNT


def test_requests_larger_than_a_pipe_holds_are_answered(sandbox):
    requests = [f"{number}" * 10**6 for number in range(4)]
    assert [results[0][1] for results in outcomes(sandbox, requests)] == requests
    mixed = ["large", "x" * 10**6, "large", "y"]
    assert [len(results) for results in outcomes(sandbox, mixed)] == [COUNT] * 4


def test_a_function_that_cannot_be_made_is_no_fault_of_the_media():
    broken = Sandbox(partial(Decoder, None), count=lambda _: COUNT, timeout_s=2)
    with pytest.raises(TypeError, match="NoneType"):
        outcomes(broken, ["a"])


@pytest.mark.parametrize("request_", ["a", "hang"])
def test_a_child_does_not_outlive_a_killed_parent(request_, tmp_path):
    """Whatever the child does: the kernel ends it."""
    program = f"""
import sys
from functools import partial
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_sandbox import Decoder
from pipeline.media.sandbox import Sandbox
sandbox = Sandbox(partial(Decoder, {str(tmp_path)!r}), count=lambda _: {COUNT}, timeout_s=1000)
for results in sandbox.run([{request_!r}]):
    print(sandbox._child._process.pid, flush=True)
    list(results)
    sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and _state(child) != "Z":
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.01)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
