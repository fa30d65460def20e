"""Pulling: find out what a repository holds, fetch and check its files, and put them into a folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from stdcli.errors import ConfigError, HubError, MediaError, ModelError, ResourceError
from stdcli.hub.artefact import (
    CARD,
    PICKLES,
    SAMPLES,
    Artefact,
    Kind,
    files_of,
    find_artefact,
    kind_of,
    repo_type_of,
)
from stdcli.models import layout
from stdcli.remote import snapshot
from stdcli.remote.errors import Absent, RepoType
from stdcli.remote.integrity import Announced, check_files
from stdcli.runtime.durable import list_files, new_folder

LOOSE = re.compile(r"(comfyui/)?[^/]+\.safetensors")
REPO = re.compile(r"(?P<type>datasets/|models/)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class Address:
    """Where something is on the Hub.

    Attributes:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None for the default branch.
        repo_type: None where it is not said.
    """

    repo: str
    revision: str | None = None
    repo_type: RepoType | None = None

    def __str__(self) -> str:
        kind = "datasets/" if self.repo_type == "dataset" else ""
        return kind + self.repo + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class RepoContents:
    """What a repository holds.

    Attributes:
        address: with the kind of repository.
        kind: what it is.
        commit: of its files.
        files: those that belong to it, card and samples as far as they can be had.
        pickles: names of files that are never fetched because they can run code.
    """

    address: Address
    kind: Kind
    commit: str
    files: Mapping[str, Announced]
    pickles: Sequence[str] = ()


def parse_address(text: str) -> Address:
    """Read `[datasets/]OWNER/NAME[@REVISION]`.

    Raises:
        ConfigError: not one.
    """
    found = REPO.fullmatch(text)
    if found is None:
        problem = f"{text!r} is no OWNER/NAME, OWNER/NAME@REVISION or datasets/OWNER/NAME"
        raise ConfigError("not a repository of the Hub", [("REPO", problem)])
    kinds: dict[str | None, RepoType | None] = {"datasets/": "dataset", "models/": "model", None: None}
    return Address(found["repo"], found["revision"], kinds[found["type"]])


def find(address: Address, *, offline: bool) -> RepoContents:
    """Look at a repository; nothing is fetched.

    Args:
        address: a model's or, if there is no such model, a dataset's.
        offline: look in the cache only.

    Raises:
        HubError: refused, unreachable, not or not whole in the cache, or a file's name would escape its
            folder.
        ModelError: nothing in it that is known here.
    """
    types: tuple[RepoType, ...] = (address.repo_type,) if address.repo_type else ("model", "dataset")
    offline = offline or constants.is_offline_mode()
    *others, last = (Address(address.repo, address.revision, repo_type) for repo_type in types)
    for other in others:
        with suppress(Absent):
            return _find(other, offline=offline)
    try:
        return _find(last, offline=offline)
    except Absent as error:
        if offline or not others:
            raise
        hint = "check the spelling; for a private one: hf auth login"
        raise Absent("no such model or dataset on the Hub", where=address, hint=hint) from error


def pull(found: RepoContents, out: Path, *, overwrite: bool, offline: bool) -> None:
    """Fetch what a repository holds through the Hub's cache, check all of it, and put it into a folder.

    Args:
        found: of `find`.
        out: the folder; it appears whole or not at all.
        overwrite: replace a folder that holds such a thing already.
        offline: look in the cache only.

    Raises:
        HubError: refused, unreachable, or a file is not what was announced.
        ModelError: weights that are no safetensors.
        MediaError: the folder is there, or holds something else, or another run is making it.
        ResourceError: the disk is full or refuses.
    """
    check_target(out, overwrite=overwrite)
    address, names = found.address, list(found.files)
    folder = snapshot.files(
        address.repo,
        address.revision if offline else found.commit,
        [_literal(name) for name in names],
        offline=offline,
        repo_type=address.repo_type or "model",
    )
    check_files(folder, found.files, fresh=set(names), where=str(address))
    for name in names:
        if name.endswith(".safetensors"):
            _check_weights(folder / name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(out, check=lambda: check_target(out, overwrite=overwrite)) as fresh:
            for name in names:
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, fresh / name)
    except OSError as error:
        raise ResourceError("the folder cannot be written", where=out, got=error.strerror or error) from error


def check_target(out: Path, *, overwrite: bool) -> None:
    """Whether a pull may write a folder.

    Raises:
        MediaError: it is there and not to be replaced, or it is a run, or holds what no pull wrote.
    """
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise MediaError("the output exists", where=out, hint="--overwrite replaces it, -o names another")
    hint = "-o names another folder"
    try:
        artefact = find_artefact(out)
    except ModelError as error:
        what = "the output holds something else, which is never replaced"
        raise MediaError(what, where=out, hint=hint) from error
    if artefact.run is not None:
        raise MediaError("the output is a whole run, which is never replaced", where=out, hint=hint)
    if strays := _strays(artefact):
        details = {"got": ", ".join(strays[:4]), "expected": f"nothing beside a {artefact.kind}"}
        raise MediaError("the output holds more, which is never replaced", where=out, **details, hint=hint)


def _strays(artefact: Artefact) -> list[str]:
    """Files that no pull wrote: what lies beside an artefact, and loose LoRAs if there are several."""
    names = list_files(artefact.root)
    known = {name for name in names if name in artefact.names or _is_shown(name)}
    loose = {name for name in known if LOOSE.fullmatch(name)}
    if layout.LORA_FILE not in known and len(loose) > 1:
        known -= loose
    return [name for name in names if name not in known]


def _find(address: Address, *, offline: bool) -> RepoContents:
    repo_type: RepoType = address.repo_type or "model"
    folder, announced = snapshot.listing(address.repo, address.revision, repo_type=repo_type, offline=offline)
    if announced is None:
        raise HubError("its list of files is not in the local Hub cache", where=address, hint=snapshot.ONCE)
    pickles = [name for name in announced if PICKLES.fullmatch(name)]
    kind = kind_of(announced)
    if kind is None or repo_type_of(kind) != repo_type:
        raise ModelError(
            "nothing in this repository that stdcli knows"
            + (", only pickle files, which are never fetched: they can run any code" if pickles else ""),
            where=address,
            got=", ".join(sorted(pickles or announced)[:4]) or "no files",
            expected="a student, a diffusers model or a bank",
        )
    names, shown = files_of(kind, announced), filter(_is_shown, sorted(announced))
    if offline:
        if missing := next((name for name in names if not (folder / name).exists()), None):
            what = "a file of this repository is not in the local Hub cache, and offline"
            raise HubError(what, where=address, got=f"no {missing}", hint=snapshot.ONCE)
        shown = (name for name in shown if (folder / name).exists())
    return RepoContents(
        address, kind, folder.name, {name: announced[name] for name in (*names, *shown)}, pickles
    )


def _is_shown(name: str) -> bool:
    """Whether a file is the card or one of its pictures, which an artefact can do without."""
    return name == CARD or SAMPLES.fullmatch(name) is not None


def _check_weights(path: Path) -> None:
    """Whatever its name says, a file that is not safetensors is not kept."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "this file is not what its name says: no safetensors", where=path.name, got=error
        ) from error


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)
