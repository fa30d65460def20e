"""Files that desktops and shares leave in any folder: nobody's work, neither ours nor the user's."""

from __future__ import annotations

import re

_LITTER = re.compile(r"\.DS_Store|\._.+|Thumbs\.db|desktop\.ini|\.nfs[0-9a-fA-F]+|\.directory")


def is_litter(name: str) -> bool:
    """Whether a file's name, without its folder, is of such a file."""
    return _LITTER.fullmatch(name) is not None
