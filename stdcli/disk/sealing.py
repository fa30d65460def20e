"""A hash of a JSON object inside of it, by which a check notices that it is not as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sealed_sha256"
"""Key of the hash of all else in the object."""


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The object with a hash of the rest of it, whatever the order of keys."""
    rest = {key: value for key, value in data.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True).encode()
    return {**rest, SEAL: hashlib.sha256(text).hexdigest()}


def is_changed(data: Mapping[str, Any]) -> bool:
    """Whether an object is not what was sealed; one without a seal is not."""
    return SEAL in data and sealed(data)[SEAL] != data[SEAL]
