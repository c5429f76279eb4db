"""A run published with a Space: what is in it, that it runs as pushed, and what is refused. A Hub on the loopback address."""

import ast
import importlib.metadata
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from gradio_client import Client, handle_file

from loopback_hub import OWNER, TOKEN, LoopbackHub, Repository
from omnisent.hub.space import source_files
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.pipeline_omnisent import MultimodalSentimentPipeline
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.train import run
from omnisent.training.arguments import parse_arguments

NAME = f"{OWNER}/clips"
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
    """Runs `omnisent publish`; returns the finished process."""
    home = tmp_path_factory.mktemp("author")

    def command(*arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess:
        words = [
            sys.executable,
            "-m",
            "omnisent.cli",
            "publish",
            str(trained),
            NAME,
            "--merged",
            "--license",
            "apache-2.0",
            *arguments,
        ]
        environment = hub.environment(home, token=token)
        return subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=300)

    return command


@pytest.fixture(scope="module")
def files(hub, publish) -> dict[str, bytes]:
    """Of the Space, after it was published twice: the second time with a file that the first had not."""
    done = publish("--space")
    assert done.returncode == 0, done.stderr[-2000:]
    model, space = (hub.repositories[kind, NAME] for kind in ("model", "space"))
    urls = [f"{hub.url}/{NAME}/commit/{one.head}" for one in (model, space)]
    assert done.stdout.split() == urls
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
    assert len(front["short_description"]) <= 60
    assert "HF_TOKEN" in files["README.md"].decode()


def test_its_requirements_pin_all_that_its_page_imports(files, space):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(space), "HF_HUB_OFFLINE": "1"}
    output = subprocess.check_output([sys.executable, "-c", IMPORTED], cwd=space, env=environment, text=True)
    modules = json.loads(output.splitlines()[-1])
    assert all(path.startswith(str(space)) for path in modules.values())
    imported = set()
    for path in modules.values():
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0] for name in names}
    owners = importlib.metadata.packages_distributions()
    needed = {owners[name][0].lower().replace("_", "-") for name in imported - sys.stdlib_module_names}
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert needed - {"torchvision"} == set(pins) - {"torchvision"}
    assert all(version == importlib.metadata.version(name).partition("+")[0] for name, version in pins.items())


def test_publishing_again_replaces_it_and_takes_away_what_it_no_longer_has(hub, files, publish):
    repository = hub.repositories["space", NAME]
    repository.commit({"omnisent/gone.py": b""}, set())
    assert publish("--space", NAME).returncode == 0
    assert repository.commits[repository.head].keys() == files.keys()


@pytest.mark.parametrize(
    ("sdk", "there", "said"),
    [
        ("docker", {}, "there is a Space of this name with the sdk docker; expected gradio; choose another name"),
        (
            "gradio",
            {"app.py": b"print()", "README.md": b""},
            "another Space of this name, with a file of its own, app.py",
        ),
        ("gradio", {"notes.txt": b""}, "another Space of this name, with a file of its own, notes.txt"),
    ],
)
def test_another_space_of_the_name_is_kept_and_nothing_is_published(hub, publish, sdk, there, said):
    other = hub.repositories["space", f"{OWNER}/other"] = Repository(sdk=sdk)
    other.commit(there, set())
    before = (other.head, hub.repositories.get(("model", NAME), Repository()).head)
    done = publish("--space", f"{OWNER}/other")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"omnisent: space {OWNER}/other: ")
    assert said in done.stderr
    assert (other.head, hub.repositories.get(("model", NAME), Repository()).head) == before


def test_without_a_login_or_with_a_wrong_name_nothing_is_asked_for(hub, publish):
    asked = len(hub.requests)
    done = publish("--space", token=None)
    assert (done.returncode, "no Hub token: run `hf auth login`" in done.stderr) == (1, True)
    assert len(hub.requests) == asked
    done = publish("--space", "no/such/name")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("omnisent: space no/such/name: ")


def test_a_space_that_fails_after_its_bundle_says_so(hub, files, publish):
    hub.repositories["model", NAME].commit({}, set())
    there = hub.requests.count(f"POST /api/models/{NAME}/commit/main")
    foreign = publish("--space", "someone/page")
    assert foreign.returncode == 1
    assert f"omnisent: the bundle is published ({hub.url}/{NAME}/commit/" in foreign.stderr
    assert "and its Space is not: someone/page: not published: " in foreign.stderr
    assert hub.requests.count(f"POST /api/models/{NAME}/commit/main") == there + 1


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
