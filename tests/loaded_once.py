"""Models that are read from the disk once, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stdcli.inference import configured_model
from stdcli.models.bundle import Bundle
from stdcli.models.spec import ModelSpec
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
    """`load`, which calls back in its first turn alone."""
    kept: dict[str, Bundle] = {}

    def loaded(spec: ModelSpec, **asked: Any) -> Bundle:
        plain = sorted((name, value) for name, value in asked.items() if not callable(value))
        loras = (text.rpartition(":")[0] or text for text in spec.loras)
        named = [spec.name, spec.base, spec.student, *loras]
        key = repr((spec, plain, [_state(Path(text)) for text in named if text]))
        if key not in kept:
            kept[key] = load(spec, **asked)
        return copy_of(kept[key], kept[key].network.denoiser.network)

    return loaded


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of what lies there: a model that was changed is another."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path] * path.exists()
    return [(str(file), (told := file.stat()).st_size, told.st_mtime_ns) for file in sorted(files)]
