"""A run published with a Space: what is in it, that it runs as pushed, and what is refused. A Hub on the loopback address."""

import ast
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from gradio_client import Client, handle_file

from loopback_hub import OWNER, TOKEN, LoopbackHub, Repository
from omnisent.hub.licence import UNSTATED
from omnisent.hub.publish import PACKAGE, PublishError
from omnisent.hub.space import assemble_space, source_files
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.train import run
from omnisent.training.arguments import parse_arguments
from omnisent.training.run_folder import read_config, read_metrics, write_json
from prepared import PreparedPython

NAME = f"{OWNER}/clips"
RATED = {"targets": {"valence": [1.0, 9.0]}, "dataset": "some.csv"}
LONG_NAMES = {"targets": {"x" * 40: [1.0, 9.0], "y" * 40: [1.0, 9.0]}, "dataset": "some.csv"}
OWNERS = importlib.metadata.packages_distributions()
IMPORTED = """
import json, sys
import omnisent.scoring.space
print(json.dumps({name: module.__file__ for name, module in sys.modules.items() if name.startswith("omnisent.")}))
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def trained(short_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    run(*parse_arguments([str(short_config), "--output_dir", str(folder)]))
    return folder


@pytest.fixture(scope="module")
def publish(hub, trained, tmp_path_factory):
    """Runs `omnisent publish` with further arguments, as somebody who is logged in with a token, or not."""
    home = tmp_path_factory.mktemp("author")
    with PreparedPython(hub.environment(home)) as python:

        def command(*further: str, token: str | None = TOKEN) -> subprocess.CompletedProcess:
            arguments = ("publish", trained, NAME, "--merged", "--license", "apache-2.0", *further)
            return python.run("from omnisent.cli import main; main()", *arguments, cwd=home, token=token)

        yield command


@pytest.fixture(scope="module")
def files(hub, publish) -> dict[str, bytes]:
    """Of the Space, after it was published."""
    done = publish("--space")
    assert done.returncode == 0, done.stderr
    model, space = (hub.repositories[kind, NAME] for kind in ("model", "space"))
    assert done.stdout.split() == [f"{hub.url}/{NAME}/commit/{one.head}" for one in (model, space)]
    return space.commits[space.head]


@pytest.fixture
def space(files, tmp_path) -> Path:
    """The files of the Space, as the Hub checks them out."""
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_space_is_one_commit_with_code_page_and_nothing_else(hub, files, trained):
    repository = hub.repositories["space", NAME]
    assert (repository.sdk, repository.private, len(repository.commits)) == ("gradio", False, 2)
    assert set(files) == {"README.md", "app.py", "requirements.txt"} | {f"omnisent/{name}" for name in source_files()}
    assert {"omnisent/scoring/page.css", "omnisent/scoring/page.js", "omnisent/LICENSE"} <= set(files)
    assert not any(name.split("/")[1:2] == ["tests"] for name in files)
    for name, data in files.items():
        assert TOKEN.encode() not in data, name
        assert str(trained).encode() not in data, name


def test_its_front_matter_says_how_it_is_run(files):
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (front["sdk"], front["sdk_version"]) == ("gradio", importlib.metadata.version("gradio"))
    assert (front["app_file"], front["models"], front["license"]) == ("app.py", [NAME], "apache-2.0")
    assert front["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (front["title"], front["short_description"]) == ("clips", "Scores the sentiment of a video clip")
    assert "HF_TOKEN" in files["README.md"].decode()


@pytest.mark.parametrize(
    ("modalities", "targets", "short", "said"),
    [
        (["text"], {}, "Scores the sentiment of a text", "the sentiment of texts"),
        (["text", "audio"], RATED, "Scores valence of an audio clip", "valence of audio clips"),
        (["video"], LONG_NAMES, "Scores a video clip", f"{'x' * 40} and {'y' * 40} of video clips"),
    ],
)
def test_its_readme_fits_what_the_run_reads_and_rates(trained, tmp_path, modalities, targets, short, said):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoint*"))
    metrics, config = (read_metrics(trained), read_config(trained))
    write_json(tmp_path / "run" / "metrics.json", {**metrics, "modalities": modalities})
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, **targets}))
    (tmp_path / "draft").mkdir()
    assemble_space(tmp_path / "draft", tmp_path / "run", NAME, f"{OWNER}/2024", UNSTATED)
    _, front, text = (tmp_path / "draft" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["title"] == "2024"
    assert yaml.safe_load(front)["short_description"] == short
    assert f"A page that scores {said} with [{NAME}]" in text
    assert ("what each modality adds" in text) == (len(modalities) > 1)
    assert "# 2024\n" in text


def test_of_a_clone_only_what_git_tracks_is_published(tmp_path, monkeypatch):
    (tmp_path / "scoring").mkdir()
    for name in ("__init__.py", "secrets.py", "LICENSE", "scoring/__init__.py", "scoring/notes.md"):
        (tmp_path / name).write_text("")
    files = {str(file) for file in source_files(tmp_path)}
    assert {"secrets.py", "scoring/notes.md"} <= files  # no clone: an installed package
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "__init__.py", "LICENSE", "scoring/__init__.py"], cwd=tmp_path, check=True)
    assert {str(file) for file in source_files(tmp_path)} == {"__init__.py", "LICENSE", "scoring/__init__.py"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PublishError, match=r"is a git clone, .* `git ls-files` fails: .*; install or repair git"):
        source_files(tmp_path)


def test_a_source_file_with_a_token_is_not_published(trained, tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    for name, text in (("__init__.py", ""), ("LICENSE", ""), ("secrets.py", f"TOKEN = 'hf_{'a1B2' * 8}'")):
        (tmp_path / "package" / name).write_text(text)
    monkeypatch.setattr("omnisent.hub.space.PACKAGE", tmp_path / "package")
    (tmp_path / "draft").mkdir()
    with pytest.raises(PublishError, match=r"^omnisent/secrets\.py contains what looks like a Hub token"):
        assemble_space(tmp_path / "draft", trained, NAME, NAME, UNSTATED)


def test_the_space_of_a_private_bundle_is_private_and_a_public_one_is_refused(hub, files, publish):
    hub.repositories["model", NAME].private = True
    try:
        hidden, public = publish("--space", f"{OWNER}/hidden"), publish("--space", NAME)
    finally:
        hub.repositories["model", NAME].private = False
    assert (hidden.returncode, public.returncode) == (0, 1)
    assert hub.repositories["space", f"{OWNER}/hidden"].private
    needs = (
        f"the Space needs a token that can read {NAME}: set it as the secret HF_TOKEN in the settings of {OWNER}/hidden"
    )
    assert needs in hidden.stderr
    assert public.stderr.endswith(
        f": {NAME}: not published: it is public, and is to be private; make it private in its settings on the Hub,"
        " or choose another name\n"
    )


def _imported(node: ast.AST) -> set[str]:
    """The packages, by their names on PyPI, of an import statement; empty for others."""
    names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
    names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
    modules = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    return {OWNERS[name][0].lower().replace("_", "-") for name in modules}


def test_its_requirements_pin_all_that_its_page_imports(files, space):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(space), "HF_HUB_OFFLINE": "1"}
    output = subprocess.check_output([sys.executable, "-c", IMPORTED], cwd=space, env=environment, text=True)
    modules = json.loads(output.splitlines()[-1])
    assert all(path.startswith(str(space)) for path in modules.values())
    needed, lazy = set(), set()
    for path in modules.values():
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = {node for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            (lazy if node in inside else needed).update(_imported(node))
    # An import inside a function of what only an extra installs is optional: it says what to install, and is not pinned.
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed |= lazy & {re.match(r"[\w.-]+", line)[0].lower() for line in project["dependencies"]}
    assert "faster-whisper" in lazy - needed
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert needed - {"torchvision"} == set(pins) - {"torchvision"}
    assert all(version == importlib.metadata.version(name).partition("+")[0] for name, version in pins.items())


@pytest.mark.slow
def test_publishing_again_replaces_it_and_a_space_that_fails_after_its_bundle_says_so(hub, files, publish):
    repository = hub.repositories["space", NAME]
    repository.commit({"omnisent/gone.py": b""}, set())
    again, failed = publish("--space", NAME), publish("--space", "someone/page")
    assert (again.returncode, failed.returncode) == (0, 1)
    assert repository.commits[repository.head].keys() == files.keys()
    said = failed.stderr.splitlines()[-1]
    assert said.startswith(f"omnisent: the bundle is published ({hub.url}/{NAME}/commit/")
    assert "and its Space is not: someone/page: not published: " in said


def test_another_space_of_the_name_is_kept_and_nothing_is_published(hub, publish):
    others = {
        "docker": Repository(sdk="docker"),
        "page": Repository(sdk="gradio"),
        "notes": Repository(sdk="gradio"),
    }
    others["page"].commit({"app.py": b"print()", "README.md": b""}, set())
    others["notes"].commit({"notes.txt": b""}, set())
    for name, repository in others.items():
        hub.repositories["space", f"{OWNER}/{name}"] = repository
    heads = [repository.head for repository in others.values()]
    asked = len(hub.requests)
    there = "there is another Space of this name, with a file of its own,"
    expected = {
        f"{OWNER}/docker": "there is a Space of this name with the sdk docker; expected gradio; choose another name",
        f"{OWNER}/page": f"{there} app.py; choose another name",
        f"{OWNER}/notes": f"{there} notes.txt; choose another name",
        "no/such/name": "Repo id must be in the form",
    }
    for name, reason in expected.items():
        done = publish("--space", name)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"omnisent: space {name}: {reason}")
    assert [repository.head for repository in others.values()] == heads
    assert not [one for one in hub.requests[asked:] if one.startswith("POST")]


def test_without_a_login_nothing_is_asked_for(hub, publish):
    asked = len(hub.requests)
    done = publish("--space", token=None)
    assert (done.returncode, done.stderr[:50]) == (1, "omnisent: no Hub token: run `hf auth login`, or se")
    assert len(hub.requests) == asked


@pytest.fixture
def served(hub, space, tmp_path_factory):
    """Starts the Space's app.py as the Hub does; returns the process and its port."""
    processes = []

    def start(token: str | None) -> tuple[subprocess.Popen, int]:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        environment = hub.environment(tmp_path_factory.mktemp("space-home"), token=token)
        environment.pop("PYTHONPATH", None)
        environment |= {"GRADIO_SERVER_PORT": str(port)}
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=space,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, port

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_it_runs_as_pushed_and_scores_a_clip_over_http(served, trained, whole_clips):
    _, port = served(None)
    address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(address)
            break
        except httpx.TransportError:
            time.sleep(0.5)
    assert "page.css" not in httpx.get(address).text
    assert ".os-card" in httpx.get(address).text
    client = Client(address, verbose=False, analytics_enabled=False)
    clip = whole_clips[0]
    result = client.predict(handle_file(clip.video), clip.text, None, None, api_name="/score")[0]
    model = OmniForSentimentRegression.from_pretrained(trained / "model").eval()
    pipe = MultimodalSentimentPipeline(model=model, processor=OmniSentProcessor.from_pretrained(trained / "model"))
    expected = pipe({"video": clip.video, "text": clip.text})["score"]
    assert float(result.split('class="os-score" title="')[1].split('"')[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_private_bundle_without_a_token_says_what_to_set(hub, served):
    hub.repositories["model", NAME].private = True
    try:
        process, _ = served(None)
        _, said = process.communicate(timeout=120)
    finally:
        hub.repositories["model", NAME].private = False
    assert process.returncode == 1
    assert f"{NAME} cannot be loaded: " in said
    assert "set a token that can read it as the secret HF_TOKEN in this Space's settings" in said.splitlines()[-1]
