"""A Python process that has imported the package once and runs each piece of code in a fork of its own, with fresh streams.

For tests whose code must run under other variables than their own, where an import each would take most of the time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import json, os, sys, traceback
import omnisent.cli, omnisent.hub.publish, omnisent.hub.publish_data, omnisent.train  # what takes long

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), number)
        os.chdir(asked["cwd"])
        os.environ.pop("HF_TOKEN", None)
        os.environ.update(asked["variables"])
        sys.argv, code = ["-c", *asked["arguments"]], 0
        try:
            exec(asked["code"], {"__name__": "__main__"})
        except SystemExit as stopped:
            code = stopped.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class PreparedPython:
    """Runs code as `python -c CODE ARGUMENTS` would; a context manager.

    Args:
        environment: all variables of the process; those of the Hub are read when it starts.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-c", SERVER]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "PreparedPython":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, code: str, *arguments: str, cwd: Path, token: str | None) -> subprocess.CompletedProcess:
        """Runs code in a folder, as somebody who is logged in with a token, or not."""
        with tempfile.TemporaryDirectory() as folder:
            files = {name: os.path.join(folder, name) for name in ("out", "err")}
            variables = {} if token is None else {"HF_TOKEN": token}
            asked = {
                "code": code,
                "arguments": list(map(str, arguments)),
                "cwd": str(cwd),
                "variables": variables,
                **files,
            }
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            returncode = int(self._process.stdout.readline())
            said = [Path(files[name]).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(code, returncode, *said)
