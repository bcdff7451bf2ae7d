"""What the name of an auto-encoder is: a place, or a function. Loads no torch."""

import re


def is_function_name(text: str) -> bool:
    """Whether a text is "module:function"; a path or URL never is, having a slash behind its colon.

    >>> is_function_name("my_package.vae:build"), is_function_name("s3://bucket/vae")
    (True, False)
    """
    return re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*", text) is not None
