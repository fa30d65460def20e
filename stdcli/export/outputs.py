"""Where an export goes: one file or one folder, whole or not at all, nothing lost by mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stdcli.disk.removing import remove_file
from stdcli.errors import MediaError, ResourceError
from stdcli.media.output import check_output, publish, temporary_path
from stdcli.models.layout import INDEX_FILE, LORA_FILE, RECIPE_FILE, wanted_files
from stdcli.runtime.durable import list_files, new_folder

SUFFIX = ".safetensors"
ADAPTER_PARTS = re.compile(r"ip_adapter/[^/]+/[^/]+\.(safetensors|json|txt)")
"""Parts of a style adapter that an export copies in folders of their own."""


def is_file_name(out: Path) -> bool:
    """Whether an output is one file; anything else is a folder."""
    return out.suffix == SUFFIX


def check_out(out: Path, *, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Refuse an output that would lose data.

    Args:
        out: a `.safetensors` file or a folder.
        overwrite: replace a file, or a folder that holds a model or a LoRA, nothing else and nothing that is
            read.
        inputs: files that are read.

    Raises:
        MediaError: it exists and may not be replaced.
        ResourceError: the disk is full.
    """
    if is_file_name(out):
        check_output(out, overwrite=overwrite, inputs=inputs)
        return
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        hint = f"a folder, or a name that ends in {SUFFIX}"
        raise MediaError("the output is there and no folder", where=out, hint=hint)
    if not overwrite:
        hint = "add --overwrite, or choose another name"
        raise MediaError("the output exists already", where=out, hint=hint)
    if any(out.resolve() in path.resolve().parents for path in inputs):
        raise MediaError("the output holds what is read", where=out, hint="choose another name")
    if not any((out / name).is_file() for name in (INDEX_FILE, LORA_FILE)):
        hint = "choose another name, or delete the folder yourself"
        raise MediaError("this folder holds no model, it is not replaced", where=out, hint=hint)
    if strays := _strays(out):
        what = "this folder holds what no export writes, it is not replaced"
        hint = "choose another name, or move these away"
        raise MediaError(what, where=out, got=", ".join(strays[:4]), hint=hint)


@contextmanager
def new_output(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Fill a file or an empty folder under a temporary name; at the end it gets its own.

    Raises:
        ResourceError: the disk is full or refuses.
        MediaError: one of that name has come to be meanwhile, or another run is making it.
    """
    try:
        if not is_file_name(out):
            with new_folder(out, check=lambda: check_out(out, overwrite=overwrite, inputs=())) as fresh:
                yield fresh
            return
        temporary = temporary_path(out)
        try:
            yield temporary
            publish(temporary, out, overwrite=overwrite)
        finally:
            remove_file(temporary)
    except (OSError, SafetensorError) as error:
        raise ResourceError("the export cannot be written", where=out, got=error) from error


def _strays(folder: Path) -> list[str]:
    """Files that no export writes."""
    names = list_files(folder)
    known = {
        LORA_FILE,
        RECIPE_FILE,
        *(name for half in (False, True) for name in wanted_files(names, half=half)),
    }
    return [name for name in names if name not in known and not ADAPTER_PARTS.fullmatch(name)]
