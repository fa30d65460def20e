"""Fetch model files from the Hub into its local cache, or find them there.

Every function returns a snapshot folder of the Hub's own cache, whose name is the commit. Only listed files
are fetched: safetensors, configs and tokenizers, never pickles or code. Hub errors are translated here,
once. Knows nothing of what the files mean beyond their names.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stdcli.errors import HubError, ModelError, ResourceError

LORA_FILE = "pytorch_lora_weights.safetensors"
INDEX_FILE = "model_index.json"
RECIPE_FILE = "recipe.json"
STUDENT_FILES = (LORA_FILE, RECIPE_FILE, "unet/config.json", "unet/diffusion_pytorch_model*.safetensors")
COMPONENTS = (
    "unet",
    "vae",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "image_encoder",
    "feature_extractor",
    "ip_adapter",
)
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(?P<fp16>\.fp16)?(-\d{5}-of-\d{5})?\.safetensors")
TEXT_SUFFIXES = frozenset({".json", ".txt"})


def model(repo: str, revision: str | None, *, offline: bool, half: bool, weights: bool) -> Path:
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
    found = names(repo, revision, offline=offline)
    if INDEX_FILE not in found:
        loose = [n for n in found if n.endswith(".safetensors") and "/" not in n]
        raise ModelError(
            "not a diffusers model: no model_index.json",
            where=f"https://huggingface.co/{repo}",
            got=f"{', '.join(loose[:4])}" if loose else f"{len(found)} files",
            hint=f"hf download {repo} {loose[0]}, then give the file's path (a LoRA goes to --lora)"
            if loose
            else None,
        )
    return files(repo, revision, list(wanted_files(found, half=half, weights=weights)), offline=offline)


def names(repo: str, revision: str | None, *, offline: bool) -> list[str]:
    """Names of all files of a repository; offline, of those in the cache.

    Raises:
        HubError: refused, unreachable, or offline and not cached.
    """
    folder = files(repo, revision, [INDEX_FILE], offline=offline)
    with suppress(CachedRepoTreeNotFoundError):
        if not (offline or constants.is_offline_mode()):
            return [entry.path for entry in get_cached_repo_tree(repo, revision=folder.name)]
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]


def files(repo: str, revision: str | None, patterns: list[str], *, offline: bool) -> Path:
    """Fetch the files of a repository that match any of the patterns.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None is the default branch.
        patterns: glob patterns; a pattern without a match is not an error.
        offline: only look in the cache; `HF_HUB_OFFLINE=1` has the same effect.

    Raises:
        HubError: refused, unreachable, or offline and not cached.
        ResourceError: the disk is full.
    """
    offline = offline or constants.is_offline_mode()
    with _translated(repo, revision, patterns, offline=offline):
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=offline)
        )


def wanted_files(found: Iterable[str], *, half: bool, weights: bool = True) -> Iterator[str]:
    """Pick what a pipeline needs from a repository's file names.

    Root checkpoints, other frameworks' weights, pickles, code and the safety checker stay out. Of a
    component's plain and fp16 weights one set is taken: fp16 if `half` or if there is no other.

    Args:
        found: file names, "/"-separated.
        half: prefer fp16 files.
        weights: False leaves all weights out.
    """
    variants: dict[str, dict[bool, list[str]]] = {}
    for name in sorted(found):
        path = PurePosixPath(name)
        folder = str(path.parent)
        match = WEIGHTS.fullmatch(path.name)
        if name in (INDEX_FILE, RECIPE_FILE) or (folder in COMPONENTS and path.suffix in TEXT_SUFFIXES):
            yield name
        elif folder in COMPONENTS and match is not None:
            variants.setdefault(folder, {}).setdefault(match["fp16"] is not None, []).append(name)
        elif folder == "ip_adapter" and path.suffix == ".safetensors" and weights:
            yield name
    for by_variant in variants.values() if weights else ():
        yield from by_variant[half if half in by_variant else not half]


@contextmanager
def _translated(repo: str, revision: str | None, patterns: list[str], *, offline: bool) -> Iterator[None]:
    where = repo if revision is None else f"{repo}@{revision}"
    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except GatedRepoError as e:
        hint = f"accept its licence on {page}, then: hf auth login"
        raise HubError("this model is gated: its owner must let you in", where=where, hint=hint) from e
    except RevisionNotFoundError as e:
        raise HubError(
            "no such revision of this model", where=where, got=revision, hint=f"{page}/tree/main"
        ) from e
    except RepositoryNotFoundError as e:
        hint = "check the spelling; for a private model: hf auth login"
        raise HubError(
            "no such model on the Hub (and no local path of that name)", where=where, hint=hint
        ) from e
    except (LocalEntryNotFoundError, IncompleteSnapshotError) as e:
        if not offline:
            hint = "check the connection, then run the same command again"
            raise HubError("cannot reach the Hub, and not in its local cache", where=where, hint=hint) from e
        once = "run the same command once without --offline, where there is a network"
        hint = once if patterns == [INDEX_FILE] else download_command(repo, revision, patterns)
        raise HubError("not in the local Hub cache, and offline", where=where, hint=hint) from e
    except HTTPError as e:
        raise HubError(
            "the Hub failed", where=where, got=str(e).splitlines()[0], hint="try again later"
        ) from e
    except OSError as e:
        if e.errno == errno.ENOSPC:
            hint = "free some space, or set HF_HOME to a larger disk"
            raise ResourceError(
                "the disk of the Hub cache is full", where=constants.HF_HUB_CACHE, hint=hint
            ) from e
        raise HubError("cannot fetch from the Hub", where=where, got=str(e).splitlines()[0]) from e


def download_command(repo: str, revision: str | None, patterns: Iterable[str]) -> str:
    """The shell command that fetches these files into the cache, to be run where there is a network."""
    parts = ["hf", "download", repo]
    if revision is not None:
        parts += ["--revision", revision]
    return " ".join(parts + [f'--include "{p}"' for p in patterns])
