"""`stdcli hub`: share students, models and banks on the Hugging Face Hub, and get those of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stdcli.cli.options import Debug, DryRun, Json, Offline, Overwrite, Quiet, Verbose, make_console
from stdcli.cli.usage import make_group
from stdcli.console import Console
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.hub.artefact import Artefact
    from stdcli.hub.push import RepoFile

app = make_group("hub", "Share students, models and banks on the Hugging Face Hub.")

Base = Annotated[
    str | None,
    typer.Option("--base-model", metavar="REPO", help="The model it was made from; default: as it says."),
]
License = Annotated[
    str | None, typer.Option("--license", metavar="NAME", help="Default: that of the base model, if known.")
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Report of stdcli eval, for the page.")
]
Samples = Annotated[
    list[Path] | None,
    typer.Option(
        "--sample", metavar="FILE", help="Picture for the page; repeatable. [default: the run's or folder's]"
    ),
]
FACTS = {"--base-model": "base", "--license": "license", "--report": "report", "--sample": "samples"}
"""Option -> what it tells the page."""


@app.command()
def push(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run, a student, a model or a bank.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a new repository.")] = True,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing the branch.")
    ] = False,
    base_model: Base = None,
    license: License = None,
    report: Report = None,
    sample: Samples = None,
    message: Annotated[
        str, typer.Option("--message", metavar="TEXT", help="Of the commit.")
    ] = "Upload with stdcli hub push",
    offline: Offline = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
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
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
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


@app.command()
def pull(
    repo: Annotated[
        str, typer.Argument(metavar="REPO[@REV]", help="OWNER/NAME; for a bank also datasets/OWNER/NAME.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Default: the last part of REPO."),
    ] = None,
    offline: Offline = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Download a student, a model or a bank into a folder, every file checked.

    Files go through the Hub's cache, which `--model` and `--student` use too: what was finished before an
    interruption is not fetched again. Pickles and code are never fetched.

    \b
    Examples:
      stdcli hub pull me/art-student
      stdcli hub pull me/art-student@v1 -o students/art
      stdcli hub pull datasets/me/art-bank -o banks/art --dry-run
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.hub.pull import check_target, find, parse_address
    from stdcli.hub.pull import pull as fetch

    address = parse_address(repo)
    folder = out or Path(address.repo.rpartition("/")[2])
    check_target(folder, overwrite=overwrite)
    found = find(address, offline=bool(offline))
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
    fetch(found, folder, overwrite=overwrite, offline=bool(offline))
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
