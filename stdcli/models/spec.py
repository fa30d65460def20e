"""Which model, from where, and how it is loaded: one value for every function that asks for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class ModelSpec:
    """What a user says of a model.

    Attributes:
        name: `embedded`, a local diffusers folder, a `.safetensors` checkpoint, or `OWNER/NAME[@REVISION]`.
        base: folder (or Hub id) with configs and tokenizers for a single-file checkpoint.
        device: "auto", "cpu", "mps", "cuda" or "cuda:N".
        dtype: "auto", "float32", "float16" or "bfloat16".
        offline: never reach the network, for Hub ids or the style adapter of a model without its own.
        student: one distilled from this model, see `find_student`; its recipe is taken before any other.
        loras: `path[:scale]` or Hub ids, fused in this order; the last recipe beside one is taken.
    """

    name: str
    base: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    student: str | None = None
    loras: Sequence[str] = ()

    @classmethod
    def of(cls, config: Any, **changes: Any) -> Self:
        """What settings with `model`, `base`, `device`, `dtype` and `offline` say; `changes` win."""
        spec = cls(config.model, config.base, config.device, config.dtype, config.offline)
        return replace(spec, **changes)
