"""Errors of the Hub and its client in our words, translated once."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stdcli.errors import HubError, ResourceError

RepoType = Literal["model", "dataset"]
LOGIN = "hf auth login"
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the client raises on answers that are not UTF-8, not JSON, or JSON of another kind than it expects."""
_QUERY = re.compile(r"\?[^\s'\"]+")


class Absent(HubError):
    """There is no such repository, or none that this user may see; offline, none in the cache."""


@contextmanager
def hub_errors(
    repo: str,
    revision: str | None,
    *,
    repo_type: RepoType = "model",
    offline_hint: str | None = None,
) -> Iterator[None]:
    """Turn what the Hub's client raises inside into a `HubError`, or a `ResourceError` if the disk is full.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit, or None.
        repo_type: `model` or `dataset`.
        offline_hint: what to do about a file that is not in the cache, where only that is asked.
    """
    where = repo if revision is None else f"{repo}@{revision}"
    page = f"https://huggingface.co/{repo}"
    if repo_type == "dataset":
        page = f"https://huggingface.co/datasets/{repo}"
    try:
        yield
    except LocalTokenNotFoundError as e:
        raise HubError("nobody is logged in to the Hub", where=where, hint=LOGIN) from e
    except HFValidationError as e:
        raise HubError("not a name of a repository", got=repo, expected="OWNER/NAME") from e
    except GatedRepoError as e:
        hint = f"accept its licence on {page}, then: {LOGIN}"
        raise HubError(f"this {repo_type} is gated: its owner must let you in", where=where, hint=hint) from e
    except RevisionNotFoundError as e:
        hint = f"{page}/tree/main"
        raise HubError(f"no such revision of this {repo_type}", where=where, got=revision, hint=hint) from e
    except RepositoryNotFoundError as e:
        local = " (and no local path of that name)" if repo_type == "model" else ""
        hint = f"check the spelling; for a private {repo_type}: {LOGIN}"
        raise Absent(f"no such {repo_type} on the Hub{local}", where=where, hint=hint) from e
    except (LocalEntryNotFoundError, IncompleteSnapshotError) as e:
        if offline_hint is None:
            raise _unreachable(e, where) from e
        raise Absent("not in the local Hub cache, and offline", where=where, hint=offline_hint) from e
    except HTTPError as e:
        raise _refused(e, where) from e
    except OSError as e:
        if e.errno == errno.ENOSPC:
            hint = "free some space, or set HF_HOME to a larger disk"
            raise ResourceError(
                "the disk of the Hub cache is full", where=constants.HF_HUB_CACHE, hint=hint
            ) from e
        if "Consistency check failed" in str(e):
            raise HubError(
                "a file is not of the size that was announced", where=where, got=_line(e), hint="try again"
            ) from e
        raise HubError("cannot fetch from the Hub", where=where, got=_line(e)) from e
    except UNREADABLE as e:
        hint = "try again later; a proxy or a sign-in page of the network may answer in the Hub's place"
        got = f"{type(e).__name__}: {_line(e)}"
        raise HubError("an answer of the Hub cannot be read", where=where, got=got, hint=hint) from e


def status_of(error: BaseException | None) -> int | None:
    """HTTP status that an error of the client stands for."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _unreachable(error: OSError, where: str) -> HubError:
    if status_of(error.__cause__) == 429:
        return _refused(error.__cause__, where)
    hint = "check the connection, then run the same command again"
    got = None if error.__cause__ is None else _line(error.__cause__)
    return HubError("cannot reach the Hub, and not in its local cache", where=where, got=got, hint=hint)


def _refused(error: BaseException, where: str) -> HubError:
    status = status_of(error)
    if status == 401:
        return HubError("the Hub does not accept your token", where=where, hint=f"{LOGIN} --force")
    if status == 403:
        hint = f"a token with the right to write there: {LOGIN}"
        return HubError("the Hub does not let you do this", where=where, got=_line(error), hint=hint)
    if status == 412:
        return HubError("somebody changed this repository meanwhile", where=where, hint="run it again")
    if status == 429:
        return HubError("the Hub asks for fewer requests", where=where, hint="try again in some minutes")
    return HubError("the Hub failed", where=where, got=_line(error), hint="try again later")


def _line(error: BaseException) -> str:
    """What an error says, in one line, without the signatures in links."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _QUERY.sub("", lines[0]) if lines else type(error).__name__
