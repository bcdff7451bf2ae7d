"""RejectClip: the one exception by which a data fault becomes a row on disk."""

import re

from schemas.outcome import Reason

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MAX_MESSAGE = 300


class RejectClip(Exception):  # noqa: N818 - a verdict on data, not a programming error
    """A clip or a media cannot be processed; costs that clip or media and nothing else.

    Attributes:
        reason: Why, from the fixed list.
        message: What the decoder said, without anything that differs between two runs.
        attempts: How often it was tried, the first time counted.
    """

    def __init__(self, reason: Reason, message: str, attempts: int = 1) -> None:
        # Memory addresses in a library's message would make two runs write different bytes.
        self.reason = reason
        self.message = _ADDRESS.sub("", message)[:_MAX_MESSAGE]
        self.attempts = attempts
        super().__init__(f"{reason}: {self.message}")

    def __reduce__(self) -> tuple[type["RejectClip"], tuple[Reason, str, int]]:
        return (RejectClip, (self.reason, self.message, self.attempts))
