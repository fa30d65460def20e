"""Text from outside as it may be shown: names and metadata can hold what acts on a terminal or a page."""

from __future__ import annotations

import re

_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters, ends of lines, what turns the direction of writing, and bytes that were no text."""


def visible(value: object) -> str:
    r"""`str(value)` on one line, every character that would act rather than be seen as its escape.

    >>> visible("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(value))
