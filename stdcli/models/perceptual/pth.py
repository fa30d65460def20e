"""Weights in the form that their authors published: a `.pth` of a state dict or of a whole training run.

Pickles are read as data alone: tensors and plain values, plus the few inert types that training runs leave in
their files. A file that names anything else is refused before anything of it is called. Knows no networks.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stdcli.disk.opening import check_file
from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, first_line

INERT = (
    argparse.Namespace,  # the run's flags
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # learning rates; numpy 1's name
    np.float64(0).__reduce__()[0],
)
WRAPPERS = ("model_state_dict", "state_dict")
REFUSED = re.compile(r"GLOBAL (\S+)")


def read_published(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a published file, without the `module.` that parallel training puts before names.

    Args:
        path: `.safetensors`, or a pickle of a state dict, bare or under `model_state_dict` or `state_dict`.

    Raises:
        ModelError: it is damaged, holds code, or no state dict.
    """
    found = _read(path)
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not (isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values())):
        raise ModelError("no weights in this file", where=path, expected="a state dict of tensors")
    # copies: a mapped file that is changed later would take the process down
    return {str(name).removeprefix("module."): value.clone() for name, value in found.items()}


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], *, what: str, where: Path
) -> None:
    """Refuse weights that are not exactly those of the published network.

    Args:
        tensors: what was read.
        expected: shape by name.
        what: the network, for messages.
        where: the file.

    Raises:
        ModelError: tensors are missing, too many or of another shape; names up to three.
    """
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing:
        raise ModelError(f"this {what} file lacks tensors", where=where, expected=_some(missing))
    if extra:
        raise ModelError(f"this {what} file has tensors that do not belong", where=where, got=_some(extra))
    for name, shape in sorted(expected.items()):
        if tuple(tensors[name].shape) != tuple(shape):
            raise ModelError(
                f"a tensor of this {what} file has another shape",
                where=f"{where}: {name}",
                got=list(tensors[name].shape),
                expected=list(shape),
            )


def _read(path: Path) -> object:
    check_file(path, ModelError)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(INERT)):
            # mapped, so that the optimiser's state, often most of the file, stays on disk
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        refused = REFUSED.search(str(e))
        if refused:
            what = "this file holds more than weights and could run code: it is not loaded"
            raise ModelError(what, where=path, got=refused[1], expected="tensors") from e
        raise _damaged(path, e) from e
    except (SafetensorError, EOFError, *FAULTS) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        "cannot read this weights file: damaged or cut short",
        where=path,
        got=first_line(error),
        hint="download it again; compare its size with the original",
    )


def _some(names: set[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + rest
