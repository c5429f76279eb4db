"""A small Hub on the loopback address: the real upload and download API, as huggingface_hub's client speaks it.

It keeps repositories in memory, with every commit, and stands in for what lies outside this machine. All files are uploaded
inline (`uploadMode: regular`). It is no mock of the client or of this project.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
OWNER = "org"


@dataclass
class Repository:
    """A repository: whether it is private, a Space's sdk, and the files of each commit, by the commit's id, oldest first."""

    private: bool = False
    sdk: str | None = None
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self):
        self.commit({}, set())

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def commit(self, changed: dict[str, bytes], deleted: set[str]) -> str:
        files = {**(self.commits[self.head] if self.commits else {}), **changed}
        files = {path: data for path, data in files.items() if path not in deleted}
        seed = f"{len(self.commits)}".encode() + b"".join(path.encode() + data for path, data in sorted(files.items()))
        sha = hashlib.sha1(seed).hexdigest()
        self.commits[sha] = files
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.head if revision == "main" else revision if revision in self.commits else None


class LoopbackHub:
    """`with LoopbackHub() as hub:` serves until the block ends.

    Attributes:
        repositories: by (type, id), e.g. ("dataset", "org/name").
        fail: how many of the next commits answer 500 instead.
        cut: how many of the next commits lose their connection before an answer.
        requests: method and path of all that was asked.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.fail = 0
        self.cut = 0
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """Variables for a subprocess whose client shall speak to this hub alone."""
        variables = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home / "hf"), "HOME": str(home)}
        variables |= {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        variables |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # the same package
        return variables if token is None else {**variables, "HF_TOKEN": token}


def faults_of_card(card: str) -> list[dict]:
    """What is wrong with a card's metadata, by the rules that the Hub documents for it."""
    try:
        data = yaml.safe_load(card.split("---")[1])
    except (IndexError, yaml.YAMLError) as error:
        return [{"message": f"the card's metadata is not YAML: {error}"}]
    return [
        {"message": f"{field}: {data[field]!r}"}
        for field, is_right in CARD_FIELDS.items()
        if field in data and not is_right(data[field])
    ]


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


def _codes(value: object) -> bool:
    return all(re.fullmatch("[a-z]{2,3}", one) for one in ([value] if isinstance(value, str) else value))


def _index(value: list[dict]) -> bool:
    """model-index: of each result its task, its data set, and metrics with type and value."""
    results = [result for model in value if model.get("name") for result in model["results"]]
    return bool(results) and all(
        result.get("task", {}).get("type")
        and {"name", "type"} <= result.get("dataset", {}).keys()
        and all(isinstance(one.get("value"), int | float) and one.get("type") for one in result.get("metrics") or [{}])
        for result in results
    )


LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "other")  # some of the Hub's list
CARD_FIELDS = {  # after github.com/huggingface/hub-docs, modelcard.md and datasetcard.md
    "license": lambda value: value in LICENCES,
    "language": _codes,
    "tags": _texts,
    "datasets": _texts,
    "metrics": _texts,
    "base_model": lambda value: re.fullmatch(r"[\w.-]+/[\w.-]+", value) is not None,
    "base_model_relation": lambda value: value in ("adapter", "finetune", "merge", "quantized"),
    "pipeline_tag": lambda value: value in ("text-classification", "audio-classification", "video-classification"),
    "widget": lambda value: all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in value),
    "model-index": _index,
}


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    state: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"{self.command} {path}")
        if self.state.cut and "/commit/" in path:
            self.state.cut -= 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        try:
            status, headers, payload = self._answer(path.strip("/").split("/"), body)
        except _Refused as refused:
            status, payload = refused.status, json.dumps({"error": refused.message}).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": refused.message}
            headers |= {"X-Error-Code": refused.code} if refused.code else {}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, parts: list[str], body: bytes) -> tuple[int, dict, bytes]:
        match parts:
            case ["api", "whoami-v2"]:
                self._need_token()
                return self._json({"type": "user", "name": OWNER, "orgs": [], "auth": {"type": "access_token"}})
            case ["api", "validate-yaml"]:
                return self._json({"errors": faults_of_card(json.loads(body)["content"]), "warnings": []})
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", ("models" | "datasets" | "spaces") as kind, owner, name, *rest]:
                return self._api(kind.removesuffix("s"), f"{owner}/{name}", rest, body)
            case [("datasets" | "spaces") as kind, owner, name, "resolve", revision, *path]:
                return self._file(kind.removesuffix("s"), f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                return self._file("model", f"{owner}/{name}", revision, "/".join(path))
        raise _Refused(404, "Not Found")

    def _need_token(self, owner: str = OWNER) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "Invalid username or password.")
        if owner != OWNER:
            raise _Refused(403, f"You don't have the rights to write under the namespace {owner}")

    def _create(self, wanted: dict) -> tuple[int, dict, bytes]:
        owner, kind = wanted.get("organization") or OWNER, wanted.get("type") or "model"
        self._need_token(owner)
        repo_id = f"{owner}/{wanted['name']}"
        url = f"{self.state.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        if (kind, repo_id) in self.state.repositories:
            return self._json({"error": "You already created this repo", "url": url}, status=409)
        if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static"):
            raise _Refused(400, "sdk: expected one of gradio, docker, static")
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.state.repositories[kind, repo_id] = Repository(private, wanted.get("sdk"))
        return self._json({"url": url, "id": repo_id})

    def _repository(self, kind: str, repo_id: str) -> Repository:
        repository = self.state.repositories.get((kind, repo_id))
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not has_token):
            raise _Refused(404 if has_token else 401, "Repository not found", "RepoNotFound")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision.removeprefix("refs/convert/"))
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _api(self, kind: str, repo_id: str, rest: list[str], body: bytes) -> tuple[int, dict, bytes]:
        repository = self._repository(kind, repo_id)
        match rest:
            case [] | ["revision", _]:
                sha = self._commit_of(repository, rest[1] if rest else "main")
                files = [{"rfilename": path} for path in sorted(repository.commits[sha])]
                found = {"id": repo_id, "sha": sha, "private": repository.private, "siblings": files, "tags": []}
                found |= {"sdk": repository.sdk} if kind == "space" else {}
                return self._json({**found, "downloads": 0, "likes": 0, "disabled": False, "gated": False})
            case ["refs"]:
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
                return self._json({"branches": [main], "tags": [], "converts": []})
            case ["tree", revision, *path]:
                return self._tree(repository, revision, "/".join(path))
            case ["paths-info", revision]:
                files = repository.commits[self._commit_of(repository, revision)]
                return self._json([self._entry(files, path) for path in self._paths(body) if self._exists(files, path)])
            case ["preupload", _]:
                self._need_token(repo_id.split("/")[0])
                asked = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
                return self._json({"files": modes})
            case ["commit", "main"]:
                self._need_token(repo_id.split("/")[0])
                return self._commit(repository, repo_id, body)
        raise _Refused(404, "Not Found")

    def _paths(self, body: bytes) -> list[str]:
        if "json" in (self.headers.get("Content-Type") or ""):
            return json.loads(body)["paths"]
        return parse_qs(body.decode()).get("paths", [])

    def _exists(self, files: dict[str, bytes], path: str) -> bool:
        return path in files or any(name.startswith(f"{path}/") for name in files)

    def _entry(self, files: dict[str, bytes], path: str) -> dict:
        if path not in files:
            return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        data = files[path]
        return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _tree(self, repository: Repository, revision: str, folder: str) -> tuple[int, dict, bytes]:
        files = repository.commits[self._commit_of(repository, revision)]
        inside = [path for path in sorted(files) if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            raise _Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        depth = len(folder.split("/")) if folder else 0
        names = dict.fromkeys("/".join(path.split("/")[: depth + 1]) for path in inside)
        return self._json([self._entry(files, path) for path in (inside if recursive else names)])

    def _commit(self, repository: Repository, repo_id: str, body: bytes) -> tuple[int, dict, bytes]:
        if self.state.fail:
            self.state.fail -= 1
            raise _Refused(500, "Internal Error")
        changed, deleted = {}, set()
        for line in map(json.loads, filter(None, body.split(b"\n"))):
            if line["key"] == "file":
                changed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                deleted.add(line["value"]["path"])
        sha = repository.commit(changed, deleted)
        return self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.state.url}/{repo_id}/commit/{sha}"})

    def _file(self, kind: str, repo_id: str, revision: str, path: str) -> tuple[int, dict, bytes]:
        repository = self._repository(kind, repo_id)
        sha = self._commit_of(repository, revision)
        data = repository.commits[sha].get(path)
        if data is None:
            raise _Refused(404, f"Entry not found: {path}", "EntryNotFound")
        start, status = 0, 200
        end = len(data) - 1
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last or end), end), 206
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return status, {**headers, "Content-Type": "application/octet-stream"}, data[start : end + 1]

    def _json(self, value, status: int = 200) -> tuple[int, dict, bytes]:
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
