"""A server that calls a bundle's handler.py as Hugging Face's Inference Toolkit does, in a process that cannot import this package.

    with running(bundle) as server:
        server.post({"inputs": "I loved it."})

Its contract: POST / with JSON, or with the bytes of a sound file as the body; the query string as parameters; the handler runs in a
thread, one request at a time; any exception is answered with status 400 and its message; GET /health. No other content types: none
of video, none with several parts.
"""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON = "application/json"
SOUNDS = ("flac", "mpeg", "wave", "wav", "x-wav", "ogg", "webm", "m4a", "x-m4a")


@dataclass(frozen=True)
class Server:
    """A running server: its port and process."""

    port: int
    pid: int

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = JSON) -> tuple[int, bytes]:
        """Status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, request: Any) -> tuple[int, Any]:
        """Status and content of the answer to a request as JSON."""
        status, body = self.request("POST", "/", json.dumps(request).encode())
        return status, json.loads(body)


@contextmanager
def running(bundle: Path, home: Path, **variables: str) -> Iterator[Server]:
    """Serve a bundle on the loopback address until the block ends; `home` holds caches and temporary files."""
    from elsewhere import WITHOUT_PACKAGE

    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(home / "tmp"),
        **variables,
    }
    code = f"{WITHOUT_PACKAGE}\nimport runpy\nrunpy.run_path({str(Path(__file__))!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, str(bundle)]
    with (
        (home / "server.log").open("ab") as log,
        subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            port = next((line.split()[1] for line in process.stdout if line.startswith("PORT ")), None)
            assert port is not None, (home / "server.log").read_text()[-3000:]
            yield Server(int(port), process.pid)
        finally:
            process.terminate()


def load_handler(folder: str) -> Any:
    """Run a bundle's handler.py by its path, and make its handler."""
    import importlib.util

    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", Path(folder, "handler.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(folder)


def deserialized(content_type: str, body: bytes) -> Any:
    """What a body means by its content type."""
    import orjson

    kind = content_type.split(";")[0].strip().lower()
    if kind == JSON:
        return orjson.loads(body)
    if kind in [f"audio/{sound}" for sound in SOUNDS]:
        return {"inputs": bytes(body)}
    raise ValueError(f'Content type "{content_type}" not supported.')


def as_number(text: str) -> Any:
    """A parameter of a query string."""
    return int(text) if text.isnumeric() else {"true": True, "false": False}.get(text, text)


def main(bundle: str) -> None:
    import socket

    import anyio
    import orjson
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    handler, one_at_a_time = load_handler(bundle), anyio.Semaphore(1)

    async def health(request: Request) -> Response:
        return PlainTextResponse("Ok")

    async def predict(request: Request) -> Response:
        try:
            data = deserialized(request.headers.get("content-type", ""), await request.body())
            if "inputs" not in data:
                raise ValueError("Body needs to provide a inputs key")
            if request.query_params and "parameters" not in data:
                data["parameters"] = {name: as_number(text) for name, text in request.query_params.items()}
            async with one_at_a_time:
                answer = await anyio.to_thread.run_sync(handler, data)
            return Response(orjson.dumps(answer), media_type=JSON)
        except Exception as error:
            return Response(orjson.dumps({"error": str(error)}), status_code=400, media_type=JSON)

    routes = [Route(path, health, methods=["GET"]) for path in ("/", "/health")]
    app = Starlette(routes=[*routes, *(Route(path, predict, methods=["POST"]) for path in ("/", "/predict"))])
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"PORT {listening.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    server.run(sockets=[listening])
    os._exit(0)  # threads of PyTorch need not be waited for


if __name__ == "__main__":
    main(sys.argv[1])
