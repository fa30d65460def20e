"""What a folder or a repository holds that can be shared, and which of its files belong to it.

Files are chosen by an allow-list of names, so that what lies beside them (checkpoints with the optimizer's
state, logs, settings with paths, caches) never leaves this machine. Looks at names only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stdcli.errors import ModelError
from stdcli.models.layout import EMBEDDER_FILE, INDEX_FILE, LORA_FILE, RECIPE_FILE, wanted_files
from stdcli.remote.errors import RepoType

Kind = Literal["student", "model", "bank"]
CARD = "README.md"
MANIFEST = "manifest.json"
RUN = "run.json"
OUTCOMES: dict[str, Kind] = {"student": "student", "model": "model"}
"""Folder that a run leaves its outcome in -> what that is."""
STUDENT = re.compile(
    rf"[^/]+\.safetensors|comfyui/[^/]+\.safetensors|{re.escape(RECIPE_FILE)}"
    r"|unet/config\.json|unet/diffusion_pytorch_model[^/]*\.safetensors(\.index\.json)?"
)
BANK = re.compile(
    r"manifest\.json|samples\.jsonl|shards/shard-\d{5}\.(safetensors|json)|conditions/cond-\d{5}\.safetensors"
)
SAMPLES = re.compile(r"samples/[^/]+\.png")
PICKLES = re.compile(r".*\.(bin|ckpt|pt|pth|pkl|pickle)")


@dataclass(frozen=True)
class Artefact:
    """Something that can be shared.

    Attributes:
        kind: what it is.
        root: its folder.
        names: its files below that, sorted.
        run: folder of the run that made it, if that was given.
    """

    kind: Kind
    root: Path
    names: tuple[str, ...]
    run: Path | None = None

    @property
    def repo_type(self) -> RepoType:
        """The kind of repository it goes to."""
        return repo_type_of(self.kind)

    @property
    def is_lora(self) -> bool:
        """Whether it is a student of low-rank adapters."""
        return self.kind == "student" and not any(name.startswith("unet/") for name in self.names)


def repo_type_of(kind: Kind) -> RepoType:
    """Banks are data, the others models."""
    return "dataset" if kind == "bank" else "model"


def kind_of(names: Iterable[str]) -> Kind | None:
    """What files of these names are, if anything that is known here."""
    present = set(names)
    if MANIFEST in present and any(name.startswith("shards/") for name in present):
        return "bank"
    if INDEX_FILE in present:
        return "model"
    is_student = any(STUDENT.fullmatch(name) and name.endswith(".safetensors") for name in present)
    return "student" if is_student else None


def files_of(kind: Kind, names: Iterable[str], *, variants: bool = False) -> list[str]:
    """Those of some names that belong to what it is, sorted; card and sample pictures are not among them.

    Args:
        kind: what it is.
        names: of all files, `/` between folders.
        variants: of a model take plain and half-precision weights, not only one of them.
    """
    present = sorted(names)
    if kind != "model":
        pattern = BANK if kind == "bank" else STUDENT
        found = {name for name in present if pattern.fullmatch(name)}
        extra = {n for n in found if n.endswith(".safetensors") and "/" not in n} - {LORA_FILE, EMBEDDER_FILE}
        return sorted(found - extra if kind == "student" and LORA_FILE in found else found)
    chosen = set(wanted_files(present, half=False))
    return sorted(chosen | set(wanted_files(present, half=True)) if variants else chosen)


def find_artefact(path: Path) -> Artefact:
    """What a local folder holds.

    Args:
        path: a run of `distill` or `teacher train`, a student's folder, a diffusers folder, or a bank.

    Raises:
        ModelError: nothing of these.
    """
    if not path.is_dir():
        raise ModelError("not a folder", where=path, expected="a run, a student, a model or a bank")
    for folder, kind in OUTCOMES.items():
        if (path / RUN).is_file() and (path / folder).is_dir():
            names = files_of(kind, _names(path / folder), variants=True)
            return Artefact(kind, path / folder, tuple(names), path)
    names = _names(path)
    found = kind_of(names)
    if found is None:
        is_run = (path / RUN).is_file()
        raise ModelError(
            "this run has nothing to share yet" if is_run else "nothing here that can be shared",
            where=path,
            expected=f"{LORA_FILE}, unet/, {INDEX_FILE} or {MANIFEST}",
            hint="the command that began the run goes on with it" if is_run else None,
        )
    return Artefact(found, path, tuple(files_of(found, names, variants=True)))


def _names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
