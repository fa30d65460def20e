"""A Hub on this machine: a real HTTP server that speaks the Hub's protocol as its own client uses it.

Accounts, repositories with commits, branches and pull requests, files in git or in large-file storage,
downloads in ranges by signed links; and the faults that a test asks for. Xet storage is not spoken.
Source: what the client of huggingface_hub sends and expects (`hf_api.py`, `_commit_api.py`, `lfs.py`,
`file_download.py`), and the Git LFS batch API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_the-right-token-0123456789"
LARGE = (".safetensors", ".bin", ".png")
PART_BYTES = 5_000_000  # objects over this are sent in parts
SIGNATURE = "X-Signature=this-must-not-be-shown"


@dataclass
class Repo:
    """A repository: commits are whole trees, branches are names of commits."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main", message: str = "") -> str:
        """Add a commit with exactly these files; returns its name."""
        seed = f"{len(self.commits)} {branch} {message}".encode()
        name = hashlib.sha1(seed + b"".join(sorted(k.encode() + v for k, v in files.items()))).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        self.messages.append(message)
        return name

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass
class Faults:
    """What goes wrong; every count is of times, and falls."""

    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    """File -> (bytes after which the connection ends, times)."""
    busy: dict[str, int] = field(default_factory=dict)
    """Part of a request's path -> times that it is answered by 429."""
    broken: str | None = None
    """Part of the path of requests that fail on the server's side."""
    extra: dict[str, bytes] = field(default_factory=dict)
    """File -> what is sent behind its announced end."""
    swapped: dict[str, bytes] = field(default_factory=dict)
    """File -> what is sent in its place, headers included; the listing announces the true one."""
    no_ranges: bool = False
    answers: dict[str, bytes] = field(default_factory=dict)
    """Part of a request's path -> what is answered with success, whatever was asked."""


class HubServer:
    """The server and all that it holds.

    Attributes:
        repos: ("models" or "datasets", "OWNER/NAME") -> repository.
        log: (method, path without query, headers by their names in small letters) of every request.
        sent: bytes of file content sent, by file name.
        received: names of files that commits brought, and hashes of large objects that were uploaded.
        page: rows of a page of a listing.
        meanwhile: called before a commit is looked at.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.sent: dict[str, int] = {}
        self.received: list[str] = []
        self.faults = Faults()
        self.page = 1000
        self.meanwhile: Callable[[], object] | None = None
        self.url = self.storage_url = ""
        self.lock = threading.Lock()

    def put(self, repo: str, files: Mapping[str, bytes], *, kind: str = "models", **traits: bool) -> Repo:
        """A repository with one commit."""
        made = self.repos[kind, repo] = Repo(**traits)
        made.commit(files)
        return made

    def asked(self, method: str, part: str) -> list[str]:
        """Paths of the requests of a method whose path contains `part`."""
        return [path for verb, path, _ in self.log if verb == method and part in path]

    def forget(self) -> None:
        """Empty the records and mend all faults."""
        self.log.clear()
        self.sent.clear()
        self.received.clear()
        self.faults = Faults()
        self.page, self.meanwhile = 1000, None


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A hub, and a storage server of another origin, on free ports of this machine while the block runs."""
    hub = HubServer()
    with _serving(hub) as hub.url, _serving(hub) as hub.storage_url:
        yield hub


@contextmanager
def _serving(hub: HubServer) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str | None, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers | {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


def git_hash(content: bytes) -> str:
    """Name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    """Whether a file goes to large-file storage."""
    return name.endswith(LARGE)


REPO = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
FILES = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"
ROUTES = {
    "GET": {
        r"/api/whoami-v2": "whoami",
        REPO: "info",
        REPO + r"/revision/(?P<rev>[^/]+)": "info",
        REPO + r"/tree/(?P<rev>[^/]+)": "tree",
        FILES + r"/resolve/(?P<rev>[^/]+)/(?P<file>.+)": "resolve",
        r"/cdn/(?P<oid>[0-9a-f]{64})/(?P<file>.+)": "cdn",
    },
    "POST": {
        r"/api/repos/create": "create",
        r"/api/validate-yaml": "validate",
        REPO + r"/preupload/(?P<rev>[^/]+)": "preupload",
        REPO + r"/commit/(?P<rev>[^/]+)": "commit",
        FILES + r"\.git/info/lfs/objects/batch": "batch",
        r"/lfs/(?P<oid>[0-9a-f]{64})/complete": "complete",
        r"/lfs/(?P<oid>[0-9a-f]{64})/verify": "verify",
    },
    "PUT": {r"/lfs/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?": "upload"},
}
ROUTES["HEAD"] = {path: name for path, name in ROUTES["GET"].items() if name in ("resolve", "cdn")}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(parts.path)
        with self.hub.lock:
            self.hub.log.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        try:
            self._check_faults(path)
            for part, answer in self.hub.faults.answers.items():
                if part in path:
                    self._send(answer, **{"Content-Type": "application/json"})
                    return
            for pattern, name in ROUTES[self.command].items():
                if match := re.fullmatch(pattern, path):
                    getattr(self, f"_{name}")(**{k: v for k, v in match.groupdict().items() if v is not None})
                    return
            raise _Refusal(404, None, f"nothing at {self.command} {path}")
        except _Refusal as refusal:
            self._answer({"error": str(refusal)}, status=refusal.status, **refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, data: Any, *, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(data).encode(), status=status, **{"Content-Type": "application/json"} | headers)

    def _send(self, body: bytes, *, status: int = 200, announced: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # -- who asks, and for what

    def _check_faults(self, path: str) -> None:
        for part, times in self.hub.faults.busy.items():
            if part in path and times:
                self.hub.faults.busy[part] -= 1
                raise _Refusal(429, None, "Too Many Requests", RateLimit='"api";r=0;t=0')

        if self.hub.faults.broken is not None and self.hub.faults.broken in path:
            raise _Refusal(500, None, "Internal Error")

    def _is_known(self) -> bool:
        sent = self.headers.get("Authorization")
        if sent not in (None, f"Bearer {TOKEN}"):
            raise _Refusal(401, None, "Invalid credentials in Authorization header")
        return sent is not None

    def _found(self, kind: str, repo: str) -> Repo:
        is_known = self._is_known()
        found = self.hub.repos.get((kind, repo))
        if found is None or (found.private and not is_known):
            raise _Refusal(404 if is_known else 401, "RepoNotFound", "Repository not found")
        return found

    def _tree_of(self, repo: Repo, rev: str) -> tuple[str, dict[str, bytes]]:
        name = repo.branches.get(rev, rev)
        if name not in repo.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return name, repo.commits[name]

    def _writable(self, kind: str, repo: str) -> Repo:
        if not self._is_known():
            raise _Refusal(401, "RepoNotFound", "Repository not found")
        found = self._found(kind, repo)
        if not repo.startswith("me/") and "create_pr" not in self.query:
            raise _Refusal(403, None, "You don't have the rights to write here")
        return found

    # -- accounts and repositories

    def _whoami(self) -> None:
        if not self._is_known():
            raise _Refusal(401, None, "Invalid username or password.")
        self._answer({"type": "user", "name": "me", "auth": {"type": "access_token"}})

    def _create(self) -> None:
        wanted = json.loads(self.body)
        kind, repo = f"{wanted.get('type', 'model')}s", f"{wanted['organization']}/{wanted['name']}"
        if not self._is_known():
            raise _Refusal(401, None, "Invalid username or password.")
        if wanted["organization"] != "me":
            raise _Refusal(403, None, "You don't have the rights to create a model under this namespace")
        if (kind, repo) in self.hub.repos:
            raise _Refusal(409, None, "You already created this repo")
        made = self.hub.repos[kind, repo] = Repo(private=wanted.get("visibility") == "private")
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, message="initial commit")
        self._answer({"url": f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{repo}"})

    def _info(self, kind: str, repo: str, rev: str = "main") -> None:
        found = self._found(kind, repo)
        name, files = self._tree_of(found, rev)
        siblings = [{"rfilename": file} for file in files]
        self._answer({"id": repo, "sha": name, "private": found.private, "siblings": siblings, "tags": []})

    def _tree(self, kind: str, repo: str, rev: str) -> None:
        _, files = self._tree_of(self._found(kind, repo), rev)
        first = int(self.query.get("cursor", ["0"])[0])
        rows = [self._row(name, content) for name, content in sorted(files.items())]
        page, rest = rows[first : first + self.hub.page], rows[first + self.hub.page :]
        here = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={first + len(page)}"
        self._answer(page, **({"Link": f'<{here}>; rel="next"'} if rest else {}))

    @staticmethod
    def _row(name: str, content: bytes) -> dict[str, Any]:
        row = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if is_large(name):
            row["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 134,
            }
        return row

    # -- downloads

    def _resolve(self, repo: str, rev: str, file: str, kind: str = "models/") -> None:
        found = self._found(kind.rstrip("/"), repo)
        if found.gated:
            raise _Refusal(403, "GatedRepo", f"Access to model {repo} is restricted")
        name, files = self._tree_of(found, rev)
        if file not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=name)
        content = self.hub.faults.swapped.get(file, files[file])
        if not is_large(file):
            self._content(file, content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=name)
            return
        oid = hashlib.sha256(content).hexdigest()
        self.hub.objects[oid] = content
        linked = {"X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{oid}"', "X_Repo_Commit": name}
        there = f"{self.hub.storage_url}/cdn/{oid}/{file}?{SIGNATURE}"
        self._send(b"", status=302, Location=there, **linked)

    def _cdn(self, oid: str, file: str) -> None:
        if SIGNATURE not in self.path:
            raise _Refusal(403, None, "Request has no signature")
        self._content(file, self.hub.objects[oid], ETag=f'"{oid}"')

    def _content(self, file: str, content: bytes, **headers: str) -> None:
        """A file, or from a byte of it on; with the faults that are asked for."""
        faults, first = self.hub.faults, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and not faults.no_ranges:
            first = int(wanted[1])
            headers |= {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        status, body = (206 if first else 200), content[first:]
        if self.command == "HEAD":
            self._send(body, status=status, **headers)
            return
        cut, times = faults.cut.get(file, (0, 0))
        if times:
            faults.cut[file] = (cut, times - 1)
            self._send(body[:cut], status=status, announced=len(body), **headers)
            self.close_connection = True
            self._count(file, cut)
            return
        body += faults.extra.get(file, b"")
        self._send(body, status=status, **headers)
        self._count(file, len(body))

    def _count(self, file: str, num_bytes: int) -> None:
        with self.hub.lock:
            self.hub.sent[file] = self.hub.sent.get(file, 0) + num_bytes

    # -- uploads

    def _validate(self) -> None:
        text = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        facts = yaml.safe_load(match[1]) if match else {}
        base = facts.get("base_model")
        errors = []
        if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            errors.append({"message": f'"base_model" must be a model id, not {base}'})
        known = ("adapter", "merge", "quantized", "finetune")
        if facts.get("base_model_relation", "adapter") not in known:
            errors.append({"message": '"base_model_relation" must be one of ' + ", ".join(known)})
        warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
        self._answer({"errors": errors, "warnings": warnings}, status=400 if errors else 200)

    def _preupload(self, kind: str, repo: str, rev: str) -> None:
        _, there = self._tree_of(self._writable(kind, repo), rev)
        self._answer({"files": [self._mode(row["path"], there) for row in json.loads(self.body)["files"]]})

    @staticmethod
    def _mode(name: str, there: Mapping[str, bytes]) -> dict[str, Any]:
        row = {"path": name, "uploadMode": "lfs" if is_large(name) else "regular", "shouldIgnore": False}
        if name in there:
            same = hashlib.sha256(there[name]).hexdigest() if is_large(name) else git_hash(there[name])
            row["oid"] = same
        return row

    def _batch(self, repo: str, kind: str = "models/") -> None:
        self._is_known()
        wanted = json.loads(self.body)
        self._answer({"transfer": "basic", "objects": [self._actions(row) for row in wanted["objects"]]})

    def _actions(self, row: Mapping[str, Any]) -> dict[str, Any]:
        oid, here = row["oid"], f"{self.hub.url}/lfs/{row['oid']}"
        storage = f"{self.hub.storage_url}/lfs/{oid}"
        if oid in self.hub.objects:
            return dict(row)
        verify = {"href": f"{here}/verify"}
        if row["size"] <= PART_BYTES:
            return {**row, "actions": {"upload": {"href": storage}, "verify": verify}}
        parts = {str(k + 1): f"{storage}/{k + 1}" for k in range(-(-row["size"] // PART_BYTES))}
        upload = {"href": f"{here}/complete", "header": {"chunk_size": str(PART_BYTES), **parts}}
        return {**row, "actions": {"upload": upload, "verify": verify}}

    def _upload(self, oid: str, part: str = "0") -> None:
        if part == "0":
            self._keep(oid, self.body)
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        self._send(b"", ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def _complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        for row in json.loads(self.body)["parts"]:
            if row["etag"].strip('"') != hashlib.md5(parts[row["partNumber"]]).hexdigest():
                raise _Refusal(400, None, "a part is not what was sent")
        self._keep(oid, b"".join(parts[number] for number in sorted(parts)))
        self._answer({})

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refusal(400, None, "content and hash differ")
        self.hub.objects[oid] = content
        self.hub.received.append(oid)

    def _verify(self, oid: str) -> None:
        if len(self.hub.objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise _Refusal(404, None, "no such object")
        self._answer({})

    def _commit(self, kind: str, repo: str, rev: str) -> None:
        found = self._writable(kind, repo)
        if self.hub.meanwhile is not None:
            self.hub.meanwhile()
        head, files = self._tree_of(found, rev)
        first, *rows = [json.loads(line) for line in self.body.splitlines()]
        if first["value"].get("parentCommit", head) != head:
            raise _Refusal(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for row in rows:
            self._apply(files, row["key"], row["value"])
        number = sum(name.startswith("refs/pr/") for name in found.branches) + 1
        branch = f"refs/pr/{number}" if "create_pr" in self.query else rev
        name = found.commit(files, branch=branch, message=first["value"]["summary"])
        page = f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{repo}"
        answer = {"success": True, "commitUrl": f"{page}/commit/{name}", "commitOid": name}
        if "create_pr" in self.query:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        self._answer(answer)

    def _apply(self, files: dict[str, bytes], key: str, value: Mapping[str, Any]) -> None:
        name = value["path"]
        if key == "file":
            files[name] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[name] = self.hub.objects[value["oid"]]
        elif files.pop(name, None) is None:
            raise _Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
        self.hub.received.append(f"{key} {name}")
