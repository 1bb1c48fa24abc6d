"""A Hugging Face hub of a few endpoints on localhost, for its real client: repositories, commits, LFS, downloads."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_an_owner"


@dataclass
class Repository:
    """Commits, newest last, each with its whole tree: path -> content; and branches: name -> commit."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """The server; `cut_after`: the request, by its number from now on, at which the connection breaks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.unknown: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self._answer(status, {"error": message or code}, X_Error_Code=code, X_Error_Message=message or code)

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.cut_after is not None:
            self.server.cut_after -= 1
            if self.server.cut_after < 0:
                self.close_connection = True
                self.connection.close()
                return
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                answer(self, *match.groups(), body)
                return
        self.server.unknown.append(f"{self.command} {path}")
        self._refuse(404, "Unknown")

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _found(self, name: str, revision: str | None = None, write: bool = False) -> tuple[Repository, str] | None:
        """The repository and the commit of a revision, or None once the request has been refused."""
        repository = self.server.repositories.get(name)
        if self._token not in (None, TOKEN):
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and self._token is None):
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif write and self._token is None:
            self._refuse(403, "", "You need a token that may write")
        elif (commit := repository.commit_of(revision or "main")) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository, commit
        return None

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        if self._token != TOKEN:
            status = 401 if self._token is None else 403
            self._refuse(status, "", "You need a token that may write")
        elif name in self.server.repositories:
            self._answer(409, {"error": "You already created this repo", "url": f"{self.server.address}/{name}"})
        else:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            made = self.server.repositories[name] = Repository(private=private)
            made.commits["0" * 40] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            made.branches["main"] = "0" * 40
            self._answer(200, {"url": f"{self.server.address}/{name}"})

    def branch(self, name: str, branch: str, body: bytes) -> None:
        if found := self._found(name, write=True):
            if branch in found[0].branches:
                self._refuse(409, "", "Branch exists")
            else:
                found[0].branches[branch] = found[1]
                self._answer(200, {})

    def preupload(self, name: str, revision: str, body: bytes) -> None:
        if self._found(name, revision, write=True):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})

    def batch(self, name: str, body: bytes) -> None:
        if self._found(name, write=True):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.address}/objects/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._refuse(400, "", "the content is not what was announced")
        else:
            self.server.objects[oid] = body
            self._answer(200, {})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        if found := self._found(name, revision, write=True):
            repository, parent = found
            tree = dict(repository.commits[parent])
            for line in body.splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    tree[value["path"]] = self.server.objects[value["oid"]]
                elif operation["key"] == "deletedFile":
                    del tree[value["path"]]
            digest = hashlib.sha1(json.dumps([parent, sorted(tree), body.decode()]).encode()).hexdigest()
            repository.commits[digest] = tree
            repository.branches[revision] = digest
            self._answer(
                200,
                {"commitUrl": f"{self.server.address}/{name}/commit/{digest}", "commitOid": digest, "success": True},
            )

    def info(self, name: str, revision: str | None, body: bytes) -> None:
        if found := self._found(name, revision):
            repository, commit = found
            files = [{"rfilename": path} for path in repository.commits[commit]]
            self._answer(200, {"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": []})

    def tree(self, name: str, revision: str, body: bytes) -> None:
        if found := self._found(name, revision):
            repository, commit = found
            files = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in repository.commits[commit].items()
            ]
            self._answer(200, files)

    def resolve(self, name: str, revision: str, path: str, body: bytes) -> None:
        if found := self._found(name, revision):
            repository, commit = found
            content = repository.commits[commit].get(path)
            if content is None:
                self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            else:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._answer(200, content, ETag=etag, X_Repo_Commit=commit, Content_Type="application/octet-stream")


NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", Handler.create),
    ("GET", "/api/agent-harnesses", lambda self, body: self._answer(200, {"harnesses": []})),
    ("POST", "/api/validate-yaml", lambda self, body: self._answer(200, {"errors": [], "warnings": []})),
    ("POST", f"/api/models/{NAME}/branch/{REVISION}", Handler.branch),
    ("POST", f"/api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/objects/(\w+)", Handler.put),
    ("POST", f"/api/models/{NAME}/commit/{REVISION}", Handler.commit),
    ("GET", f"/api/models/{NAME}", lambda self, name, body: self.info(name, None, body)),
    ("GET", f"/api/models/{NAME}/revision/{REVISION}", Handler.info),
    ("GET", f"/api/models/{NAME}/tree/{REVISION}", Handler.tree),
    ("GET HEAD", f"/{NAME}/resolve/{REVISION}/(.+)", Handler.resolve),
]
