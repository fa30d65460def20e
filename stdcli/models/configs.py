"""Configs of networks as they lie on disk: JSON objects whose numbers make networks that can be built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stdcli.disk.opening import check_file
from stdcli.disk.reading import read_object
from stdcli.errors import ModelError

CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")
MAX_LAYERS, MAX_SIZE = 1000, 10**7
"""Of anything that a config counts layers by, and of any other number in it."""
COUNTS = re.compile(r"layers|blocks?$|blocks_per|_per_block|depth|heads|stages")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: missing, not JSON, not an object, or it asks for a network of no possible size.
    """
    try:
        value = read_object(path, ModelError)
    except ModelError as e:
        got = f"{e.what}{'' if e.got is None else f' ({e.got})'}"
        raise ModelError("cannot read this config", where=path, got=got, expected="a JSON object") from e
    _check_sizes(value, path)
    return value


def check_configs(folder: Path) -> None:
    """Look at all that libraries will read of one network: plain files, and sizes that can be built.

    Args:
        folder: with its config and weights.

    Raises:
        ModelError: a pipe or a device among the files; a config that cannot be read or is of no possible
            network.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as e:
        raise ModelError("cannot look into this folder", where=folder, got=e.strerror) from e
    for path in files:
        if path.exists():  # a link that leads nowhere is not read either, or is missed by who does
            check_file(path, ModelError)
        if path.name in CONFIGS:
            read_json(path)


def _check_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Refuse numbers by which a few bytes would make networks, or lists of steps, without end."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_sizes(value, path)
        limit = MAX_LAYERS if COUNTS.search(key) else MAX_SIZE
        values = list(_leaves(value))
        wrong = [v for v in values if isinstance(v, int | float) and v > limit]
        if wrong or (COUNTS.search(key) and len(values) > MAX_LAYERS):
            raise ModelError(
                "this config is of no network that can be built",
                where=f"{path} {key}",
                got=wrong[0] if wrong else f"{len(values)} values",
                expected=f"at most {limit}",
            )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
