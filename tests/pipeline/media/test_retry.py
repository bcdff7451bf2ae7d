import errno
import random
import sys
import zipfile

import aiohttp
import botocore.exceptions
import pytest
from fsspec.exceptions import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from s3fs.errors import translate_boto_error
from yarl import URL

from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy, attempt, open_retrying, reason_of
from schemas.outcome import Reason

FAST = RetryPolicy(base_seconds=0.001, max_seconds=0.002, timeout_seconds=0.3)
BODY = random.Random(0).randbytes(300_000)


def http_error(status):
    request = aiohttp.RequestInfo(URL("http://host/a"), "GET", None, URL("http://host/a"))
    return aiohttp.ClientResponseError(request, (), status=status)


def s3_error(code):
    return translate_boto_error(
        botocore.exceptions.ClientError({"Error": {"Code": code, "Message": code}}, "GetObject")
    )


def caused(error, cause):
    error.__cause__ = cause
    return error


@given(st.integers(1, 2000), st.floats(0, 10), st.floats(10, 100))
def test_waits_double_up_to_the_longest(attempts, base, longest):
    policy = RetryPolicy(base_seconds=base, max_seconds=longest)
    bound = min(longest, base * 2 ** min(attempts - 1, 64))
    assert bound / 2 <= policy.delay_seconds(attempts) <= bound


@pytest.mark.parametrize(
    "flags", [{"attempts": 0}, {"base_seconds": -1.0}, {"base_seconds": 2, "max_seconds": 1}, {"timeout_seconds": 0}]
)
def test_policies_that_cannot_be(flags):
    with pytest.raises(ValueError, match="expected"):
        RetryPolicy(**flags)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), Reason.MISSING),
        (PermissionError(errno.EACCES, "not yours"), Reason.MISSING),
        (OSError(errno.ENAMETOOLONG, "long"), Reason.MISSING),
        (OSError(errno.EIO, "disk"), Reason.UNREADABLE),
        (TimeoutError(), Reason.UNREADABLE),
        (ConnectionResetError(), Reason.UNREADABLE),
        (FSTimeoutError(), Reason.UNREADABLE),
        (zipfile.BadZipFile("bad"), Reason.UNREADABLE),
        *((http_error(status), Reason.MISSING) for status in (401, 403, 404, 410)),
        *((http_error(status), Reason.UNREADABLE) for status in (408, 429, 500, 502, 503, 504)),
        (caused(FileNotFoundError("http://host/a"), http_error(503)), Reason.UNREADABLE),
        (caused(FileNotFoundError("http://host/a"), http_error(404)), Reason.MISSING),
        (aiohttp.ClientPayloadError("cut"), Reason.UNREADABLE),
        (aiohttp.ServerDisconnectedError(), Reason.UNREADABLE),
        (s3_error("NoSuchKey"), Reason.MISSING),
        (s3_error("AccessDenied"), Reason.MISSING),
        (s3_error("SlowDown"), Reason.UNREADABLE),
        (s3_error("InternalError"), Reason.UNREADABLE),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://host"), Reason.UNREADABLE),
        (RejectClip(Reason.CORRUPT, ""), None),
        (KeyError("ours"), None),
        (AssertionError(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reasons(error, reason):
    assert reason_of(error) is reason


def test_an_operation_is_tried_as_often_as_the_policy_says():
    calls = []

    def fail():
        calls.append(1)
        raise TimeoutError("slow")

    with pytest.raises(RejectClip) as caught:
        attempt(fail, url="s3://a", policy=FAST)
    assert (len(calls), caught.value.attempts, caught.value.reason) == (4, 4, Reason.UNREADABLE)
    assert "4 attempts" in caught.value.message
    assert "s3://a" in caught.value.message


def test_what_succeeds_after_a_fault_is_the_result():
    left = [TimeoutError(), ConnectionResetError()]

    def flaky():
        if left:
            raise left.pop()
        return "bytes"

    assert attempt(flaky, url="a", policy=FAST) == "bytes"


def test_faults_of_ours_pass_at_once():
    calls = []

    def fail():
        calls.append(1)
        raise KeyError("ours")

    with pytest.raises(KeyError):
        attempt(fail, url="a", policy=FAST)
    assert len(calls) == 1


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("kind", ["503", "reset", "stall", "short"])
def test_a_reader_never_sees_a_fault_that_passes(serve, kind, ranges):
    """Every third request fails, and reads here and there give what they give of the bytes themselves."""
    with (
        serve({"a.mp4": BODY}, lambda _path, before: kind if before % 3 == 0 else None, ranges=ranges) as server,
        open_retrying(f"{server.url}/a.mp4", policy=FAST) as file,
    ):
        draw = random.Random(0)
        for _ in range(20):
            start, size = draw.randrange(len(BODY)), draw.randrange(100_000)
            file.seek(start)
            assert file.read(size) == BODY[start : start + size]
        assert file.seek(0, 2) == len(BODY)
        assert file.read() == b""
        assert server.asked["a.mp4"] > 1


@pytest.mark.parametrize("kind", ["503", "429", "reset", "stall", "short"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_fault_that_stays_is_a_transient_reject(serve, kind, ranges):
    with serve({"a.mp4": BODY}, lambda _path, _before: kind, ranges=ranges) as server:
        with pytest.raises(RejectClip) as caught, open_retrying(f"{server.url}/a.mp4", policy=FAST) as file:
            file.read()
        assert (caught.value.reason, caught.value.attempts) == (Reason.UNREADABLE, 4)
        assert server.asked["a.mp4"] >= 4


@pytest.mark.parametrize("status", ["401", "403", "404", "410"])
def test_what_is_not_there_is_asked_for_once(serve, status):
    with serve({"a.mp4": BODY}, lambda _path, _before: status) as server:
        with pytest.raises(RejectClip) as caught:
            open_retrying(f"{server.url}/a.mp4", policy=FAST)
        assert (caught.value.reason, caught.value.attempts) == (Reason.MISSING, 1)
        assert server.asked["a.mp4"] == 1


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_is_read_whole_up_to_the_limit(serve, lengths):
    with serve({"a.mp4": BODY}, ranges=False, lengths=lengths) as server:
        with open_retrying(f"{server.url}/a.mp4", policy=FAST) as file:
            file.seek(1000)
            assert file.read() == BODY[1000:]
        with open_retrying(f"{server.url}/a.mp4", policy=FAST, max_bytes=5000) as file:
            assert file.read() == BODY[:5001]


def test_a_file_of_no_bytes(serve):
    with serve({"a.mp4": b""}) as server, open_retrying(f"{server.url}/a.mp4", policy=FAST) as file:
        assert file.read() == b""


def test_a_file_that_is_another_when_it_is_opened_again(serve):
    files = {"a.mp4": BODY}

    def rule(path, before):
        if before == 1:
            files["a.mp4"] = BODY[:1000]
            return "503"
        return None

    with (
        serve(files, rule) as server,
        open_retrying(f"{server.url}/a.mp4", policy=FAST) as file,
        pytest.raises(RejectClip, match="1000 bytes, had 300000"),
    ):
        file.read()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/nowhere/a.jpg", Reason.MISSING),
        ("/", Reason.MISSING),
        ("/" + "x" * 300, Reason.MISSING),
        ("/a\0b", Reason.UNREADABLE),
        ("memory://nowhere/a.jpg", Reason.MISSING),
        ("http://127.0.0.1:1/a.jpg", Reason.UNREADABLE),
        ("http://host:99999/a.jpg", Reason.UNREADABLE),
        ("http://[/a.jpg", Reason.UNREADABLE),
    ],
)
def test_names_that_open_nothing(url, reason):
    with pytest.raises(RejectClip) as caught:
        open_retrying(url, policy=FAST)
    assert caught.value.reason is reason


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_local_file_that_fails_while_it_is_read():
    with pytest.raises(RejectClip) as caught, open_retrying("/proc/self/mem", policy=FAST) as file:
        file.read(1)
    assert (caught.value.reason, caught.value.attempts) == (Reason.UNREADABLE, 4)


def test_a_local_file_that_is_cut_off_while_it_is_read(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    with open_retrying(str(path), policy=FAST) as file:
        file.read(1)
        path.write_bytes(BODY[:10])
        with pytest.raises(RejectClip, match="10 bytes, had 300000"):
            file.read()


def test_seek_before_the_beginning(tmp_path):
    (tmp_path / "a.mp4").write_bytes(BODY)
    with (
        open_retrying(str(tmp_path / "a.mp4"), policy=FAST) as file,
        pytest.raises(ValueError, match="expected at least"),
    ):
        file.seek(-1)
