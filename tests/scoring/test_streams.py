"""Standard output holds scores alone, whatever prints there: Python, a library of C, or another process."""

import json
import os
import shlex
import subprocess
import sys

from omnisent.scoring.streams import scores_alone

NOISY = """
import os, subprocess, sys
from omnisent.scoring.streams import scores_alone
print("before")
with scores_alone() as out:
    print("a library")
    os.write(1, b"a library of C\\n")
    subprocess.run([sys.executable, "-c", "print('another process')"])
    print("a score \\u2013 1", file=out)
print("after")
"""

ODD = """
from omnisent.scoring.streams import scores_alone
with scores_alone() as out:
    print('"caf\u00e9 \u2013 \\U0001f600 \\udcff"', file=out)
"""


def test_all_else_that_is_printed_goes_to_standard_error():
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stdout.splitlines() == ["before", "a score \u2013 1", "after"]
    assert sorted(done.stderr.splitlines()) == ["a library", "a library of C", "another process"]


def test_what_the_encoding_of_standard_output_cannot_write_is_escaped_as_in_json():
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", ODD], capture_output=True, env=environment, timeout=60, check=True)
    assert json.loads(done.stdout.decode("latin-1")) == "caf\u00e9 \u2013 \U0001f600 \udcff"


def test_where_standard_output_is_closed_nothing_is_shown():
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(NOISY)} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=True)
    assert b"another process" not in done.stdout


def test_standard_output_is_itself_again_after_an_error(capfd):
    try:
        with scores_alone():
            print("noise")
            raise ValueError
    except ValueError:
        print("after")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("after\n", "noise\n")


def test_a_stream_of_python_alone_is_kept_clean_too(capsys):
    with scores_alone() as out:
        print("noise")
        print("a score", file=out)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("a score\n", "noise\n")
