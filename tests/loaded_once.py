"""Models that are read from the disk once, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stdcli.inference import configured_model
from stdcli.models.bundle import Bundle
from stdcli.rollout import build
from tests.copies import copy_of


@contextmanager
def loaded_once() -> Iterator[None]:
    """What commands load again comes as a copy of what was loaded first, unless its files have changed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (configured_model, build):
            patch.setattr(module, "load_model", _remembering(module.load_model))
        yield


def _remembering(load: Callable[..., Bundle]) -> Callable[..., Bundle]:
    kept: dict[str, Bundle] = {}

    def loaded(name: str, *, tell: Callable[[str], None] = lambda stage: None, **asked: Any) -> Bundle:
        named = [name, *(str(value) for value in (asked.get("base"), asked.get("student")) if value)]
        named += [lora.rpartition(":")[0] or lora for lora in asked.get("loras", ())]
        key = repr((name, sorted(asked.items()), [_state(Path(each)) for each in named]))
        if key not in kept:
            kept[key] = load(name, tell=tell, **asked)
        return copy_of(kept[key], kept[key].denoiser.network)

    return loaded


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of what lies there: a model that was changed is another."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path] * path.exists()
    return [(str(file), (told := file.stat()).st_size, told.st_mtime_ns) for file in sorted(files)]
