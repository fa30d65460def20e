"""Which pictures are kept from training, so that there is something to measure on."""

from __future__ import annotations

import hashlib

HELD_OUT_ONE_IN = 10


def is_held_out(name: str) -> bool:
    """Whether a file name belongs to the tenth that is never trained on (SHA-256 of it, mod 10 == 0)."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0
