"""No path of this machine in what is uploaded: known places are rewritten, any other is refused.

Knows the files that carry paths: JSON of configs, recipes and manifests, metadata of weights, pictures.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open

from stdcli.disk.opening import check_file
from stdcli.disk.reading import iter_objects, read_json
from stdcli.disk.sealing import SEAL, sealed
from stdcli.errors import ConfigError, ModelError
from stdcli.models.locate import EMBEDDED, HUB_ID

_PATH = re.compile(
    r"(?!//(?:(?<=\bhttps://)|(?<=\bhttp://)|(?<=\bhf://))\w)"  # no link
    r"(?<![\w/.~])(?:~[\w.-]*)?(?:/+[\w.-]+){2,}"  # /a/b, ~/a/b, ~me/a/b, file:///a/b; not a/b/c
    r"|(?<![\w/])~[\\/]"
    r"|\b[A-Za-z]:[\\/]{1,4}\w"  # C:\a, as often escaped as it may be
    r"|\\\\\w+\\"  # a share of a server
)
_FREE_TEXT = {"prompt", "negative_prompt"}
_VOCABULARY = re.compile(r"tokenizer(_2)?/(vocab|tokenizer|added_tokens)\.json")
_OWN_NAMES = ("_name_or_path", "name_or_path", "special_tokens_map_file")
"""Keys of configs that say where they were loaded from, and that nothing reads."""


def public_base(recorded: str, given: str | None) -> str:
    """What a base model is called for others.

    Args:
        recorded: the name it had here.
        given: by the user, OWNER/NAME; None for as recorded.

    Returns:
        `embedded`, or OWNER/NAME, without a revision.

    Raises:
        ConfigError: neither is such a name.
    """
    name = recorded if given is None else given
    if name == EMBEDDED and given is None:
        return name
    found = HUB_ID.fullmatch(name)
    is_local = given is None and Path(name).expanduser().exists()
    if found is None or found["file"] or is_local:
        what = "the base model is a path of this machine, which means nothing to others"
        problem = f"{name} is no OWNER/NAME of the Hub"
        raise ConfigError(what, [("--base-model", problem)], hint="--base-model OWNER/NAME")
    return found["repo"]


def cleaned(path: Path, name: str, *, base: str | None) -> bytes | None:
    """What to upload in place of a file; None for the file as it is.

    Args:
        path: the file.
        name: its name in the repository.
        base: public name of the base model, written where a recipe or manifest names it.

    Raises:
        ModelError: it holds a path of this machine, or cannot be read.
    """
    if name.endswith(".safetensors"):
        _refuse_paths(_metadata(path), where=path)
    elif name.endswith(".png"):
        return _bare_picture(path)
    elif name.endswith(".json") and not _VOCABULARY.fullmatch(name):
        return _clean_json(path, name, base=base)
    elif name.endswith(".jsonl"):
        for _, row in iter_objects(path, ModelError):
            _refuse_paths(row, where=path)
    return None


def check_text(text: str, *, where: object) -> None:
    """Refuse a text that names a path of this machine.

    Raises:
        ModelError: it does.
    """
    if found := _PATH.search(text):
        raise ModelError(
            "this names a path of this machine; nothing was sent", where=where, got=found[0].strip()
        )


def _clean_json(path: Path, name: str, *, base: str | None) -> bytes | None:
    before = read_json(path, ModelError)
    data = json.loads(json.dumps(before))
    if isinstance(data, dict):
        for key in _OWN_NAMES:
            data.pop(key, None)
        place = {"recipe.json": data.get("trained"), "manifest.json": data.get("model")}.get(name)
        key = "base" if name == "recipe.json" else "name"
        if base is not None and isinstance(place, dict) and key in place:
            place[key] = base
        if SEAL in data:
            data = sealed(data)
    _refuse_paths(data, where=path)
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return None if data == before else text.encode("utf-8", "backslashreplace")


def _refuse_paths(data: Any, *, where: Path) -> None:
    for text in _texts(data):
        check_text(text, where=where)


def _texts(data: Any) -> Iterator[str]:
    """Every text in plain data, but for what people write to describe pictures."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from () if key in _FREE_TEXT else _texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)


def _metadata(path: Path) -> dict[str, str]:
    check_file(path, ModelError)
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError("these weights cannot be read", where=path, got=error) from error


def _bare_picture(path: Path) -> bytes:
    """A picture's pixels alone, without what programs note in it."""
    check_file(path, ModelError)
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:
        raise ModelError("this picture cannot be read", where=path, got=error) from error
    bare = Image.frombytes("RGB", picture.size, picture.tobytes())
    out = io.BytesIO()
    bare.save(out, "PNG")
    return out.getvalue()
