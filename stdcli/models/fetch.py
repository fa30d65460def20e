"""Fetch model files from the Hub into its local cache, or find them there.

Every function returns a snapshot folder of the Hub's own cache, whose name is the commit. Only listed files
are fetched: safetensors, configs and tokenizers, never pickles or code. Knows nothing of what the files mean
beyond their names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.utils import filter_repo_objects

from stdcli.errors import ModelError
from stdcli.models.announced import Announced, Silent, bounded, check_files, check_names
from stdcli.models.hub_errors import RepoType, hub_errors

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
INDEX_FILE = "model_index.json"
RECIPE_FILE = "recipe.json"
STUDENT_FILES = (
    LORA_FILE,
    PEFT_FILE,
    PEFT_CONFIG,
    RECIPE_FILE,
    "unet/config.json",
    "unet/diffusion_pytorch_model*.safetensors",
)
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
    "ip_adapter/image_encoder",
)
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(?P<fp16>\.fp16)?(-\d{5}-of-\d{5})?\.safetensors")
ONCE = "run the same command once without --offline, where there is a network"
TEXT_SUFFIXES = frozenset({".json", ".txt"})
logging.getLogger("huggingface_hub._snapshot_download").addFilter(
    lambda record: "No files matched" not in record.getMessage()
)


def _name(repo: str, revision: str | None) -> str:
    return repo if revision is None else f"{repo}@{revision}"


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
    if not (offline or constants.is_offline_mode()):
        folder, announced = listing(repo, revision)
        if announced is not None:
            return list(announced)
    else:
        folder = files(repo, revision, [INDEX_FILE], offline=True)
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
        hint = ONCE if patterns == [INDEX_FILE] else download_command(repo, revision, patterns)
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


def download_command(repo: str, revision: str | None, patterns: Iterable[str]) -> str:
    """The shell command that fetches these files into the cache, to be run where there is a network."""
    parts = ["hf", "download", repo]
    if revision is not None:
        parts += ["--revision", revision]
    return " ".join(parts + [f'--include "{p}"' for p in patterns])
