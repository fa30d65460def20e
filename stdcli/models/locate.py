"""Find the files that a model's name stands for.

A name is `embedded`, a local diffusers folder, a local `.safetensors` checkpoint, or a Hub id with an
optional `@revision`. Local names never reach the network. Knows paths and names, not what is in the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stdcli.config.names import did_you_mean
from stdcli.config.pasting import pasted
from stdcli.disk.opening import check_file
from stdcli.errors import HubError, ModelError
from stdcli.models import layout
from stdcli.models.configs import check_configs
from stdcli.remote import snapshot

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "embedded"
STUDENT = "student"
"""Folder of a student in that of a run, or of the embedded model."""
NETWORK_FILES = ("config.json", "model.safetensors")
PICKLE_SUFFIXES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?P<file>/[^@]+)?(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class LocatedFiles:
    """Where a model's files are.

    Attributes:
        name: as the user gave it.
        path: local folder, or local file for a single-file checkpoint.
        revision: commit on the Hub; None for local names.
    """

    name: str
    path: Path
    revision: str | None = None


def locate_model(name: str, *, offline: bool, half: bool = False, weights: bool = True) -> LocatedFiles:
    """Resolve a model's name to local files, downloading if the name is a Hub id.

    Args:
        name: `embedded`, folder, `.safetensors` file or `OWNER/NAME[@REVISION]`.
        offline: use the local Hub cache only.
        half: prefer the fp16 files of a Hub repository that has both.
        weights: False fetches configs and tokenizers only.

    Raises:
        ModelError: nothing there, or a file format that is not loaded.
        HubError: the Hub refuses, cannot be reached, or offline and not cached.
    """
    if name == EMBEDDED:
        return LocatedFiles(name, EMBEDDED_FOLDER)
    path = _local(name)
    if path.exists():
        if path.is_file():
            refuse_unsafe(path)
        return LocatedFiles(name, path)
    hub = _hub_id(name)
    if hub is None or hub["file"]:
        raise _not_found(
            name, what="model", expected=f"{EMBEDDED}, a diffusers folder, a .safetensors file or a Hub id"
        )
    folder = fetch_model(hub["repo"], hub["revision"], offline=offline, half=half, weights=weights)
    return LocatedFiles(name, folder, revision=folder.name)


def fetch_model(repo: str, revision: str | None, *, offline: bool, half: bool, weights: bool) -> Path:
    """Fetch a diffusers repository's configs, tokenizers and safetensors weights.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None is the default branch.
        offline: only look in the cache.
        half: take the fp16 files where a component has both.
        weights: False leaves all weights out.

    Returns:
        Snapshot folder.

    Raises:
        ModelError: not a diffusers repository.
        HubError: refused, unreachable, or offline and not cached.
    """
    found = snapshot.names(repo, revision, offline=offline)
    if layout.INDEX_FILE not in found:
        loose = [n for n in found if n.endswith(".safetensors") and "/" not in n]
        raise ModelError(
            "not a diffusers model: no model_index.json",
            where=f"https://huggingface.co/{repo}",
            got=f"{', '.join(loose[:4])}" if loose else f"{len(found)} files",
            hint=f"hf download {repo} {loose[0]}, then give the file's path (a LoRA goes to --lora)"
            if loose
            else None,
        )
    return snapshot.files(
        repo, revision, list(layout.wanted_files(found, half=half, weights=weights)), offline=offline
    )


def locate_lora(name: str, *, offline: bool) -> LocatedFiles:
    """Resolve a LoRA's name (without its scale) to one local `.safetensors` file.

    Args:
        name: file, folder, `OWNER/NAME[@REVISION]` or `OWNER/NAME/FILE.safetensors[@REVISION]`.
        offline: use the local Hub cache only.

    Raises:
        ModelError: nothing there, a pickle file, or several files and none with a default name.
        HubError: as for `locate_model`.
    """
    path = _local(name)
    if path.is_file():
        refuse_unsafe(path)
        return LocatedFiles(name, path)
    if path.is_dir():
        return LocatedFiles(
            name, path / _only_lora(name, [p.name for p in sorted(path.iterdir()) if p.is_file()])
        )
    hub = _hub_id(name)
    if hub is None:
        raise _not_found(name, what="LoRA", expected="a .safetensors file, a folder or a Hub id")
    repo, revision = hub["repo"], hub["revision"]
    file = hub["file"]
    chosen = (
        file.removeprefix("/") if file else _only_lora(name, snapshot.names(repo, revision, offline=offline))
    )
    known = (layout.RECIPE_FILE, layout.PEFT_CONFIG, layout.EMBEDDER_FILE)
    beside = [(Path(chosen).parent / name).as_posix() for name in known]
    folder = snapshot.files(repo, revision, [chosen, *beside], offline=offline)
    if not (folder / chosen).is_file():
        raise HubError(
            f"no file {chosen} in {repo}", where=name, hint=f"https://huggingface.co/{repo}/tree/main"
        )
    return LocatedFiles(name, folder / chosen, revision=folder.name)


def has_embedded_student() -> bool:
    """Whether the embedded model has a student in this installation."""
    return (EMBEDDED_FOLDER / STUDENT).is_dir()


def locate_student(name: str, *, offline: bool) -> LocatedFiles:
    """Resolve a student's name to a local folder or LoRA file.

    Args:
        name: folder of a run or of a student, LoRA file, `embedded` (the embedded model's own student),
            `OWNER/NAME[@REVISION]` or `OWNER/NAME/FILE.safetensors[@REVISION]`.
        offline: use the local Hub cache only.

    Raises:
        ModelError: nothing there, or a pickle file.
        HubError: as for `locate_model`.
    """
    if name == EMBEDDED:
        return LocatedFiles(name, EMBEDDED_FOLDER / STUDENT)
    path = _local(name)
    if path.is_file():
        refuse_unsafe(path)
        return LocatedFiles(name, path)
    if path.is_dir():
        return LocatedFiles(name, path / STUDENT if (path / STUDENT).is_dir() else path)
    hub = _hub_id(name)
    if hub is None:
        raise _not_found(
            name, what="student", expected="a run, a student's folder, a .safetensors file or a Hub id"
        )
    if hub["file"]:
        return locate_lora(name, offline=offline)
    folder = snapshot.files(hub["repo"], hub["revision"], list(layout.STUDENT_FILES), offline=offline)
    return LocatedFiles(name, folder, revision=folder.name)


def locate_network(
    name: str,
    *,
    what: str,
    offline: bool,
    weights: Sequence[str] = NETWORK_FILES[1:],
    also: Sequence[str] = (),
) -> LocatedFiles:
    """Resolve the name of one network (not a whole model) to a local folder with its config and weights.

    Args:
        name: folder, or `OWNER/NAME[@REVISION]`.
        what: the kind of network, for messages.
        offline: use the local Hub cache only.
        weights: names of weights files of which one is enough.
        also: further files that belong to it, each needed.

    Raises:
        ModelError: nothing there, not all of config.json, weights and further files, or damaged: a pipe or a
            device among them, or a config that cannot be read or is of no network that can be built.
        HubError: as for `locate_model`.
    """
    path, revision = _local(name), None
    if not path.is_dir():
        hub = _hub_id(name)
        if hub is None or hub["file"]:
            raise _not_found(name, what=what, expected="a folder or a Hub id")
        files = [NETWORK_FILES[0], *weights, *also]
        path = snapshot.files(hub["repo"], hub["revision"], files, offline=offline)
        revision = path.name
    try:
        check_configs(path)
    except ModelError as e:
        got = e.what if e.got is None else f"{e.what}: {e.got}"
        raise ModelError(f"this {what} is damaged", where=e.where, got=got, expected=e.expected) from e
    for file in (NETWORK_FILES[0], *also):
        if not (path / file).is_file():
            raise ModelError(f"this {what} is not complete", where=path, got=f"no {file}")
    if not any((path / file).is_file() for file in weights):
        raise ModelError(f"this {what} is not complete", where=path, got=f"no {' or '.join(weights)}")
    return LocatedFiles(name, path, revision)


def locate_file(name: str, *, what: str, offline: bool) -> LocatedFiles:
    """Resolve the name of one file of weights to a local path; what is in it is checked by who reads it.

    Args:
        name: file, or `OWNER/NAME/FILE[@REVISION]`.
        what: the kind of weights, for messages.
        offline: use the local Hub cache only.

    Raises:
        ModelError: nothing there.
        HubError: as for `locate_model`.
    """
    path = _local(name)
    if path.is_file():
        return LocatedFiles(name, path)
    hub = _hub_id(name)
    if path.is_dir() or hub is None or not hub["file"]:
        raise _not_found(name, what=what, expected="a file, or OWNER/NAME/FILE of the Hub")
    repo, file = hub["repo"], hub["file"].removeprefix("/")
    folder = snapshot.files(repo, hub["revision"], [file], offline=offline)
    if not (folder / file).is_file():
        page = f"https://huggingface.co/{repo}/tree/main"
        raise HubError(f"no file {file} in {repo}", where=name, hint=page)
    return LocatedFiles(name, folder / file, folder.name)


def is_public(name: str) -> bool:
    """Whether a model's name means the same elsewhere: the embedded model or a Hub id, no path here."""
    return name == EMBEDDED or (_hub_id(name) is not None and not _local(name).exists())


def _local(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        is_other = path.exists() and not path.is_dir()
    except (OSError, RuntimeError) as e:  # a name too long, a closed folder, no such ~user
        reason = getattr(e, "strerror", None) or e
        raise ModelError("this name cannot be looked up", where=name, got=reason) from e
    if is_other:
        check_file(path, ModelError)
    return path


def refuse_unsafe(path: Path) -> None:
    """Refuse files that can run code when read, and formats that are not weights.

    Raises:
        ModelError: the name does not end in `.safetensors`.
    """
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(
            "pickle files are never loaded: they can run any code",
            where=path,
            got=path.suffix,
            expected=".safetensors",
            hint="look for the .safetensors version of the same model",
        )
    if path.suffix != ".safetensors":
        raise ModelError(
            "not a weights file", where=path, got=path.suffix or "no suffix", expected=".safetensors"
        )


def _hub_id(name: str) -> re.Match[str] | None:
    if name.startswith((".", "/", "~")) or "\\" in name:
        return None
    match = HUB_ID.fullmatch(name)
    if match is None or (match["file"] is None and Path(name).suffix in PICKLE_SUFFIXES | {".safetensors"}):
        return None
    return match


def _not_found(name: str, *, what: str, expected: str) -> ModelError:
    near = _neighbors(Path(name).expanduser())
    known = [*near, EMBEDDED] if what == "model" else near
    hint = did_you_mean(Path(name).name, known) or "check the spelling, or give a Hub id as OWNER/NAME"
    if near and Path(name).parent != Path():
        hint = f"in that folder: {', '.join(near[:5])}"
    return ModelError(
        f"no such {what}",
        where=name,
        got="no local file or folder of that name",
        expected=expected,
        hint=hint,
    )


def _neighbors(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    return sorted(p.name for p in path.parent.iterdir() if p.is_dir() or p.suffix == ".safetensors")


def _only_lora(name: str, files: list[str]) -> str:
    found = [f for f in files if f.endswith(".safetensors") and "/" not in f]
    for usual in (layout.LORA_FILE, layout.PEFT_FILE):
        if usual in found:
            return usual
    if len(found) == 1:
        return found[0]
    if not found:
        pickles = [f for f in files if Path(f).suffix in PICKLE_SUFFIXES]
        raise ModelError(
            "no .safetensors file here"
            + (f", only pickle files ({pickles[0]}), which are never loaded" if pickles else ""),
            where=name,
            expected=layout.LORA_FILE,
        )
    raise ModelError(
        f"{len(found)} weight files here and none is called {layout.LORA_FILE}",
        where=name,
        got=", ".join(found[:6]),
        hint=f"--lora {pasted(name.partition('@')[0].rstrip('/') + '/' + found[0])}",
    )
