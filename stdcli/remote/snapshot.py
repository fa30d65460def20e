"""Fetch files of a Hub repository into the Hub's local cache, or find them there.

Folders are snapshots of the Hub's own cache, whose name is the commit. Only what is asked for is fetched, and
compared with what the repository announces. Knows nothing of what the files mean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.utils import filter_repo_objects

from stdcli.remote.errors import RepoType, hub_errors
from stdcli.remote.integrity import Announced, Silent, bounded, check_files, check_names

ONCE = "run the same command once without --offline, where there is a network"
logging.getLogger("huggingface_hub._snapshot_download").addFilter(
    lambda record: "No files matched" not in record.getMessage()
)


def _name(repo: str, revision: str | None) -> str:
    return repo if revision is None else f"{repo}@{revision}"


def names(repo: str, revision: str | None, *, offline: bool) -> list[str]:
    """Names of all files of a repository; offline, of those in the cache.

    Raises:
        HubError: refused, unreachable, or offline and not cached.
    """
    if not (offline or constants.is_offline_mode()):
        folder, announced = listing(repo, revision)
        if announced is not None:
            return list(announced)
    else:
        folder, _ = listing(repo, revision, offline=True)
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]


def listing(
    repo: str, revision: str | None, *, repo_type: RepoType = "model", offline: bool = False
) -> tuple[Path, dict[str, Announced] | None]:
    """What a repository announces of its files; none is fetched.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None is the default branch.
        repo_type: `model` or `dataset`.
        offline: only look in the cache.

    Returns:
        The snapshot folder where its files are or will be, named as the commit; and name -> file, None where
        the Hub is not reached and its cache holds only the folder.

    Raises:
        HubError: refused, or unreachable and nothing in the cache; a file's name would escape its folder.
    """
    options = {"repo_type": repo_type, "allow_patterns": [], "tqdm_class": Silent}
    with hub_errors(repo, revision, repo_type=repo_type, offline_hint=ONCE if offline else None):
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=offline, **options))
        try:
            found = get_cached_repo_tree(repo, repo_type=repo_type, revision=folder.name)
        except CachedRepoTreeNotFoundError:
            return folder, None
        check_names([entry.path for entry in found], where=_name(repo, revision))
        return folder, {e.path: Announced.of(e) for e in found}


def files(
    repo: str, revision: str | None, patterns: list[str], *, offline: bool, repo_type: RepoType = "model"
) -> Path:
    """Fetch the files of a repository that match any of the patterns.

    Sizes are compared with what the repository announces, and the content of what was not in the cache yet.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None is the default branch.
        patterns: glob patterns; a pattern without a match is not an error.
        offline: only look in the cache; `HF_HUB_OFFLINE=1` has the same effect.
        repo_type: `model` or `dataset`.

    Returns:
        Snapshot folder.

    Raises:
        HubError: refused, unreachable, or offline and not cached; a file's name would escape its folder; a
            file is not what was announced.
        ResourceError: the disk is full.
    """
    where, options = _name(repo, revision), {"repo_type": repo_type, "allow_patterns": patterns}
    if offline or constants.is_offline_mode():
        hint = download_command(repo, revision, patterns)
        with hub_errors(repo, revision, repo_type=repo_type, offline_hint=hint):
            return Path(snapshot_download(repo, revision=revision, local_files_only=True, **options))
    folder, announced = listing(repo, revision, repo_type=repo_type)
    if announced is None:
        return folder
    wanted = {name: announced[name] for name in filter_repo_objects(announced, allow_patterns=patterns)}
    fresh = {name for name in wanted if not (folder / name).exists()}
    bar = bounded(sum(file.size_bytes for file in wanted.values()), where=where)
    with hub_errors(repo, revision, repo_type=repo_type):
        snapshot_download(repo, revision=folder.name, tqdm_class=bar, **options)
    check_files(folder, wanted, fresh=fresh, where=where)
    return folder


def download_command(repo: str, revision: str | None, patterns: Iterable[str]) -> str:
    """The shell command that fetches these files into the cache, to be run where there is a network."""
    parts = ["hf", "download", repo]
    if revision is not None:
        parts += ["--revision", revision]
    return " ".join(parts + [f'--include "{p}"' for p in patterns])
