"""`stdcli hub`: share students, models and banks on the Hugging Face Hub, and get those of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stdcli.cli.command import Call, argument, command, option, switch
from stdcli.cli.options import shared
from stdcli.cli.usage import make_group
from stdcli.console import Console
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.hub.artefact import Artefact
    from stdcli.hub.push import RepoFile

FACTS = {"--base-model": "base", "--license": "license", "--report": "report", "--sample": "samples"}
"""Option -> what it tells the page."""


@command(
    argument("path", Path, "PATH", "A run, a student, a model or a bank."),
    argument("repo", str, "REPO", "OWNER/NAME; made if it is not there."),
    switch("--private/--public", "Who sees a new repository.", default=True),
    switch("--create-pr", "Open a pull request instead of changing the branch."),
    option("--base-model", str, "REPO", "The model it was made from; default: as it says."),
    option("--license", str, "NAME", "Default: that of the base model, if known."),
    option("--report", Path, "DIR", "Report of stdcli eval, for the page."),
    option(
        "--sample", list[Path], "FILE", "Picture for the page; repeatable. [default: the run's or folder's]"
    ),
    option("--message", str, "TEXT", "Of the commit.", default="Upload with stdcli hub push"),
    *shared("offline dry_run"),
)
def push(
    call: Call,
    *,
    path: Path,
    repo: str,
    private: bool,
    create_pr: bool,
    base_model: str | None,
    license: str | None,
    report: Path | None,
    sample: list[Path] | None,
    message: str,
    dry_run: bool,
) -> None:
    """Upload a student, a model or a bank with a page that says how to use it.

    Only files that belong to it are sent, and of these only those that differ from what is there. Banks
    become datasets. The token is that of `hf auth login`.

    \b
    Examples:
      stdcli hub push runs/art me/art-student --report report/ --dry-run
      stdcli hub push runs/art me/art-student --public --license apache-2.0
      stdcli hub push banks/art me/art-bank --base-model me/art-teacher
    """
    console, offline = call.console, bool(call.flags["offline"])
    from stdcli.hub.artefact import find_artefact
    from stdcli.hub.pull import parse_address
    from stdcli.hub.push import check_login, compare, gather, local_card
    from stdcli.hub.push import push as send

    address = parse_address(repo)
    artefact = find_artefact(path)
    if address.revision is not None or address.repo_type not in (None, artefact.repo_type):
        problem = f"a {artefact.kind} goes to a {artefact.repo_type} repository, OWNER/NAME"
        raise ConfigError("cannot push there", [("REPO", problem)])
    if offline and not dry_run:
        raise ConfigError("a push needs the Hub", [("--offline", "only together with --dry-run")])
    if not dry_run:
        check_login(address.repo)
    facts = _facts(artefact, base_model, license, report, sample)
    items = gather(artefact, address.repo, **facts)
    if local_card(artefact) is not None and (idle := [flag for flag, key in FACTS.items() if facts.get(key)]):
        console.warning(f"the page is your own README.md, which is sent without what {', '.join(idle)} says")
    if dry_run and offline:
        _show(console, artefact, [(i.name, i.size_bytes, "not compared") for i in items], items=items)
        return
    difference = compare(items, artefact, address.repo)
    if difference.user_card:
        console.warning("the page there was edited by hand and stays as it is")
    if dry_run:
        _show(console, artefact, list(difference.rows()), items=items, is_new=difference.parent is None)
        return
    options = {"private": private, "create_pr": create_pr, "message": message}
    done = send(difference, artefact, address.repo, **options)
    sent = difference.to_send
    size = sum(item.size_bytes for item in sent)
    said = f"{len(sent)} files sent, {size} bytes; {len(difference.same)} there already"
    console.result(
        f"{done.url}: {said}" if done.was_needed else f"{done.url}: nothing to send",
        path=done.url,
        repo=address.repo,
        repo_type=artefact.repo_type,
        commit=done.commit,
        sent=[item.name for item in sent],
        bytes=size,
        same=[item.name for item in difference.same],
        deleted=list(difference.deleted),
    )


@command(
    argument("repo", str, "REPO[@REV]", "OWNER/NAME; for a bank also datasets/OWNER/NAME."),
    option("--out", Path, "DIR", "Default: the last part of REPO.", short="-o"),
    *shared("offline overwrite dry_run"),
)
def pull(call: Call, *, repo: str, out: Path | None, overwrite: bool, dry_run: bool) -> None:
    """Download a student, a model or a bank into a folder, every file checked.

    Files go through the Hub's cache, which `--model` and `--student` use too: what was finished before an
    interruption is not fetched again. Pickles and code are never fetched.

    \b
    Examples:
      stdcli hub pull me/art-student
      stdcli hub pull me/art-student@v1 -o students/art
      stdcli hub pull datasets/me/art-bank -o banks/art --dry-run
    """
    console, offline = call.console, bool(call.flags["offline"])
    from stdcli.hub.pull import check_target, find, parse_address
    from stdcli.hub.pull import pull as fetch

    address = parse_address(repo)
    folder = out or Path(address.repo.rpartition("/")[2])
    check_target(folder, overwrite=overwrite)
    found = find(address, offline=offline)
    if found.pickles:
        console.warning(
            f"left out, because pickle files can run any code: {', '.join(sorted(found.pickles)[:5])}"
        )
    size = sum(file.size_bytes for file in found.files.values())
    facts = {"repo": address.repo, "kind": found.kind, "commit": found.commit, "bytes": size}
    if dry_run:
        rows = [(name, file.size_bytes) for name, file in found.files.items()]
        console.table(("file", "bytes"), rows, path=folder, dry_run=True, **facts)
        console.note(f"{found.kind}: {len(rows)} files, {size} bytes, to {folder}")
        return
    is_here = folder.resolve() == Path.cwd()
    fetch(found, folder, overwrite=overwrite, offline=offline)
    if is_here:
        console.note("the folder that you are in is a new one: cd . shows it to your shell")
    said = f"{folder}: a {found.kind}, {len(found.files)} files, {size} bytes"
    console.result(said, path=folder, files=list(found.files), **facts)


def _facts(
    artefact: Artefact,
    base: str | None,
    license: str | None,
    report: Path | None,
    samples: list[Path] | None,
) -> dict[str, Any]:
    """What the page says beyond the files themselves."""
    from stdcli.hub.push import check_options

    check_options(samples or ())
    facts: dict[str, Any] = {"base": base, "license": license, "samples": samples}
    if report is not None:
        from stdcli.evaluate.report import read_report

        facts["report"] = read_report(report)[0]
    return facts


def _show(
    console: Console,
    artefact: Artefact,
    rows: list[tuple[str, int | None, str]],
    *,
    items: list[RepoFile],
    is_new: bool | None = None,
) -> None:
    """What a push would do."""
    size = sum(bytes_ or 0 for _, bytes_, state in rows if state != "same")
    card = next(item.content for item in items if item.name == "README.md")
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
    facts = {"dry_run": True, "repo_type": artefact.repo_type, "is_new": is_new, "bytes": size, "card": text}
    console.table(("file", "bytes", "state"), rows, path=artefact.root, **facts)
    console.detail(text)
    console.note(f"{artefact.kind}: {size} bytes to send; nothing was sent (dry run)")


GROUP = make_group(
    "hub", "Share students, models and banks on the Hugging Face Hub.", {"push": push, "pull": pull}
)
