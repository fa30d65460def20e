"""Pushing: gather what is shared, compare it with what is there, send in one commit what differs.

The only place that uploads. The token is the one that the Hub's client is logged in with; its value is
never seen here.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.utils import disable_progress_bars

from stdcli.config.pasting import pasted
from stdcli.config.recipe import Recipe
from stdcli.disk.reading import read_bytes, read_object, read_text
from stdcli.errors import BankError, ConfigError, HubError, ModelError
from stdcli.hub.artefact import CARD, RUN, SAMPLES, Artefact, files_of
from stdcli.hub.card import MARKER, CardData, make_card
from stdcli.hub.clean import check_text, cleaned, public_base
from stdcli.models.layout import RECIPE_FILE
from stdcli.remote.errors import UNREADABLE, hub_errors
from stdcli.remote.integrity import Announced, file_sha256, git_blob
from stdcli.remote.snapshot import files, listing


@dataclass(frozen=True)
class RepoFile:
    """One file of a push.

    Attributes:
        name: in the repository.
        content: a local file, or bytes made for this.
    """

    name: str
    content: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def is_same(self, stored: Announced | None) -> bool:
        """Whether the repository has this very content under this name."""
        if stored is None or stored.size_bytes != self.size_bytes:
            return False
        if isinstance(self.content, Path):
            return stored.is_of(self.content)
        if stored.sha256:
            return hashlib.sha256(self.content).hexdigest() == stored.sha256
        return git_blob(self.content) == stored.blob


@dataclass(frozen=True)
class RepoDiff:
    """What a push would change.

    Attributes:
        parent: commit that the repository is at; None where it is still to be made.
        new, changed: to send.
        same: there already.
        deleted: names in the repository that belong to an earlier push and no longer to this one.
        user_card: whether the page there was written by hand, and stays.
    """

    parent: str | None
    new: Sequence[RepoFile]
    changed: Sequence[RepoFile]
    same: Sequence[RepoFile]
    deleted: Sequence[str] = ()
    user_card: bool = False

    def rows(self) -> Iterator[tuple[str, int | None, str]]:
        """(file, bytes, what happens to it), by name."""
        kinds = {"new": self.new, "changed": self.changed, "same": self.same}
        found = [(item.name, item.size_bytes, kind) for kind, items in kinds.items() for item in items]
        yield from sorted([*found, *((name, None, "deleted") for name in self.deleted)])

    @property
    def to_send(self) -> list[RepoFile]:
        """New and changed ones."""
        return [*self.new, *self.changed]


@dataclass(frozen=True)
class Pushed:
    """What a push did: page to look at, commit, and whether there was anything to do."""

    url: str
    commit: str
    was_needed: bool


def gather(
    artefact: Artefact,
    repo: str,
    *,
    base: str | None = None,
    license: str | None = None,
    report: Mapping[str, Any] | None = None,
    samples: Sequence[Path] | None = None,
) -> list[RepoFile]:
    """All files of a push, the card among them.

    Args:
        artefact: what is shared.
        repo: OWNER/NAME.
        base: OWNER/NAME of the base model, or the teacher; None for as the files say.
        license: by the Hub's name.
        report: of an evaluation, for the card.
        samples: pictures for the card; None for the last one of the run, without a run those of the folder.

    Raises:
        ConfigError: the base is a path of this machine.
        BankError: the bank is not complete.
        ModelError: a file names a path of this machine, or cannot be read.
    """
    recipe, manifest = _recipe_of(artefact), _manifest_of(artefact)
    recorded = (recipe and recipe.trained and recipe.trained.base) or (manifest and manifest["model"]["name"])
    public = public_base(recorded or "", base) if recorded or base else None
    items = [_item(artefact.root / name, name, base=public) for name in artefact.names]
    pictures = _samples_of(artefact) if samples is None else samples
    shown = [_item(path, f"samples/{path.stem}.png", base=None) for path in pictures]
    data = CardData(
        repo,
        artefact,
        base=public,
        license=license,
        recipe=recipe,
        manifest=manifest,
        run=read_object(artefact.run / RUN, ModelError) if artefact.run is not None else {},
        report=report,
        samples=[item.name for item in shown],
    )
    written = local_card(artefact)
    text = make_card(data) if written is None else written
    check_text(text, where="the card" if written is None else artefact.root / CARD)
    return [*items, *shown, RepoFile(CARD, text.encode("utf-8", "backslashreplace"))]


def local_card(artefact: Artefact) -> str | None:
    """The page that the user wrote beside the files; None if there is none or an earlier push wrote it.

    Raises:
        ModelError: it cannot be read.
    """
    path = artefact.root / CARD
    if not path.is_file():
        return None
    text = read_text(path, ModelError)
    return None if MARKER in text else text


def compare(items: Sequence[RepoFile], artefact: Artefact, repo: str) -> RepoDiff:
    """What differs from what the Hub has.

    Raises:
        HubError: the Hub refuses or cannot be reached.
    """
    repo_type = artefact.repo_type
    with hub_errors(repo, None, repo_type=repo_type):
        is_there = HfApi().repo_exists(repo, repo_type=repo_type)
    if not is_there:
        return RepoDiff(None, items, (), ())
    folder, remote = listing(repo, None, repo_type=repo_type)
    remote = remote or {}
    same = [item for item in items if item.is_same(remote.get(item.name))]
    others = [item for item in items if item not in same]
    user_card = any(item.name == CARD for item in others) and _is_by_hand(artefact, repo, remote)
    others = [item for item in others if not (user_card and item.name == CARD)]
    names = {item.name for item in items}
    known = {*files_of(artefact.kind, remote, variants=True), *filter(SAMPLES.fullmatch, remote)}
    return RepoDiff(
        folder.name,
        [item for item in others if item.name not in remote],
        [item for item in others if item.name in remote],
        same,
        sorted(known - names),
        user_card,
    )


def check_login(repo: str) -> str:
    """Who the token belongs to.

    Raises:
        HubError: offline, nobody is logged in, or the Hub does not accept the token.
    """
    if constants.is_offline_mode():
        raise HubError("offline, and a push needs the Hub", where=repo, hint="unset HF_HUB_OFFLINE")
    with hub_errors(repo, None):
        return HfApi().whoami()["name"]


def push(
    difference: RepoDiff, artefact: Artefact, repo: str, *, private: bool, create_pr: bool, message: str
) -> Pushed:
    """Send what differs, in one commit that is refused if the repository changed meanwhile.

    Args:
        difference: of `compare`.
        artefact: what is shared.
        repo: OWNER/NAME; made if it is not there.
        private: whether a new one can be seen by its owner only.
        create_pr: open a pull request, and leave the branch alone.
        message: of the commit.

    Raises:
        HubError: the Hub refuses or cannot be reached; a repository that is not there has no pull requests.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    api, repo_type = HfApi(), artefact.repo_type
    page = f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"
    if difference.parent and not difference.to_send and not difference.deleted:
        return Pushed(page, difference.parent, False)
    if difference.parent is None:
        if create_pr:
            raise HubError("a pull request needs a repository that is there", where=repo)
        with hub_errors(repo, None, repo_type=repo_type):
            api.create_repo(repo, repo_type=repo_type, private=private)
            head = api.repo_info(repo, repo_type=repo_type).sha
        difference = replace(difference, parent=head)
    operations = [CommitOperationAdd(item.name, item.content) for item in difference.to_send]
    operations += [CommitOperationDelete(name) for name in difference.deleted]
    with hub_errors(repo, None, repo_type=repo_type), _upload_errors(repo):
        done = api.create_commit(
            repo,
            operations,
            commit_message=message,
            repo_type=repo_type,
            create_pr=create_pr,
            parent_commit=difference.parent,
        )
    return Pushed(done.pr_url or page, done.oid, True)


@contextmanager
def _upload_errors(repo: str) -> Iterator[None]:
    """The client wraps what went wrong with one file, and tells of a refused card with a ValueError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, (OSError, *UNREADABLE)):
            raise error.__cause__ from error
        raise
    except ValueError as error:
        if isinstance(error, OSError | UnicodeDecodeError | JSONDecodeError):
            raise
        lines = str(error).splitlines()
        raise HubError(lines[0].rstrip("."), where=repo, got=" ".join(lines[1:]) or None) from error


def _item(path: Path, name: str, *, base: str | None) -> RepoFile:
    made = cleaned(path, name, base=base)
    return RepoFile(name, path if made is None else made)


def _recipe_of(artefact: Artefact) -> Recipe | None:
    path = artefact.root / RECIPE_FILE
    if artefact.kind == "bank" or not path.is_file():
        return None
    try:
        return Recipe.model_validate_json(read_text(path, ModelError))
    except ValueError as error:
        raise ModelError("cannot read this recipe", where=path, got=str(error).splitlines()[0]) from error


def _manifest_of(artefact: Artefact) -> Mapping[str, Any] | None:
    if artefact.kind != "bank":
        return None
    from stdcli.bank.bank_files import BankFiles  # brings torch, which nothing else here needs
    from stdcli.bank.format import read_manifest

    bank = BankFiles(artefact.root)
    manifest = read_manifest(bank)
    if manifest.state != "complete":
        raise BankError("this bank is not complete", where=artefact.root, hint="stdcli bank build goes on")
    for name in artefact.names:
        if name.startswith("shards/") and name.endswith(".safetensors"):
            noted = bank.read_json(name.removesuffix(".safetensors") + ".json").get("sha256")
            if noted != file_sha256(artefact.root / name):
                raise BankError(
                    "a shard is not as it was written",
                    where=artefact.root / name,
                    hint=f"stdcli bank verify {pasted(artefact.root)}",
                )
    return manifest.to_json()


def _samples_of(artefact: Artefact) -> list[Path]:
    found = sorted(((artefact.run or artefact.root) / "samples").glob("*.png"))
    return found[-1:] if artefact.run is not None else found


def _is_by_hand(artefact: Artefact, repo: str, remote: Mapping[str, Announced]) -> bool:
    """Whether the repository's page was written or edited by somebody who took our mark out."""
    if CARD not in remote or local_card(artefact) is not None:
        return False
    folder = files(repo, None, [CARD], offline=False, repo_type=artefact.repo_type)
    return MARKER not in read_bytes(folder / CARD, HubError).decode(errors="replace")


def check_options(samples: Sequence[Path]) -> None:
    """Refuse pictures that would take each other's names.

    Raises:
        ConfigError: two have the same name.
    """
    stems = [path.stem for path in samples]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError("two pictures of one name", [("--sample", ", ".join(twice))])
