"""Publishes a Space, a web page on the Hub that scores clips with a published bundle: one repository, in one commit.

    omnisent publish RUN_DIR org/name --space [org/page]

The Space holds this package's own source, so that it runs as it was pushed, and pinned versions of what the page imports.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import NamedTuple

from huggingface_hub.errors import RepositoryNotFoundError

from ..training import run_folder
from ..training.about import joined
from .card import what_is_rated
from .card_metadata import run_targets
from .licence import Licence
from .publish import PACKAGE, check_secret, licence_of_run, publish_run
from .upload import FAULTS, PublishError, hub_api, publish_folder, reason_of

SDK = "gradio"
NEEDS = (  # what the page and the modules that it imports import, except inside functions what only an extra installs
    "accelerate",
    "av",
    "datasets",
    "gradio",
    "huggingface-hub",
    "matplotlib",
    "numpy",
    "openpyxl",
    "pandas",
    "peft",
    "pyarrow",
    "qwen-omni-utils",
    "safetensors",
    "silero-vad",
    "soxr",
    "torch",
    "torchvision",
    "tqdm",
    "transformers",
)
SOURCE = "omnisent"
OWN_FILES = ("README.md", "app.py", "requirements.txt", ".gitattributes")
SOURCE_SUFFIXES = (".py", ".css", ".js", ".j2", ".md")
LONGEST_DESCRIPTION = 60  # the Hub allows no longer one
APP = Template('''"""Serves a page on $repo_id; the page's code is in $source/."""

from $source.scoring.space import serve_bundle

serve_bundle("$repo_id")
''')
CARD = Template("""---
title: $title
emoji: 🎬
colorFrom: indigo
colorTo: yellow
sdk: $sdk
sdk_version: $sdk_version
python_version: "$python"
app_file: app.py
models:
- $repo_id
tags:
- multimodal-sentiment
license: $licence
short_description: $description
---

# $name

A page that scores $rated of $inputs with [$repo_id](https://huggingface.co/$repo_id): $shown.
What the model is for, and what it is not for, is on its card.

The Space runs as it is. Choose hardware that holds the model: on a base of 7B parameters, a GPU with 24 GB or more. If the model is
private or gated, set a token that can read it as the secret `HF_TOKEN` in the Space's settings.

`omnisent/` is the source of the package that the page runs on, under Apache-2.0 (`omnisent/LICENSE`).
""")


class PublishedSpace(NamedTuple):
    """A Space on the Hub: the URL of its commit, and whether its bundle is private, which it then needs a token to read."""

    url: str
    is_private: bool


def publish_with_space(
    run: str | Path,
    repo_id: str,
    space_id: str,
    *,
    merged: bool = False,
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> tuple[str, PublishedSpace]:
    """Publish a run, and a Space that scores with it; that the Space can be written is checked before anything is published.

    Args:
        space_id: `owner/name` of the Space, which may be that of the bundle.
        run, repo_id, merged, license, private, token: as in `publish_run`; `private` applies to both.

    Returns:
        The URL of the bundle's commit, and the Space.

    Raises:
        PublishError: what went wrong, and whether the bundle was published.
    """
    check_space(space_id, token=token)
    licence = licence_of_run(Path(run), license)
    bundle = publish_run(run, repo_id, merged=merged, license=license, private=private, token=token)
    try:
        return bundle, publish_space(Path(run), repo_id, space_id, licence=licence, private=private, token=token)
    except PublishError as error:
        raise PublishError(f"the bundle is published ({bundle}), and its Space is not: {error}") from error


def publish_space(
    run: Path, repo_id: str, space_id: str, *, licence: Licence, private: bool = False, token: str | None = None
) -> PublishedSpace:
    """Upload the Space of a published bundle in one commit; publishing again replaces it.

    Args:
        run: of the bundle.
        repo_id: of the bundle.
        space_id, token: as in `publish_folder`, which also says what is raised.
        licence: of the bundle.
        private: make the Space private, which that of a private bundle is anyway.
    """
    try:
        is_private = bool(hub_api(token).model_info(repo_id).private)
    except FAULTS as error:
        raise PublishError(f"{repo_id}: {reason_of(error)}") from error
    url = publish_folder(
        space_id,
        repo_type="space",
        space_sdk=SDK,
        assemble=lambda draft: assemble_space(draft, run, repo_id, space_id, licence),
        is_ours=_is_ours,
        replaced=("*",),
        message=f"Serve {repo_id}",
        private=private or is_private,
        token=token,
    )
    return PublishedSpace(url, is_private)


def check_space(space_id: str, *, token: str | None = None) -> None:
    """Check that a Space of this name can be written.

    Raises:
        PublishError: without a token, for an invalid name, or for another Space that has the name.
    """
    api = hub_api(token)
    try:
        found = api.space_info(space_id)
    except RepositoryNotFoundError:
        return  # it will be created
    except FAULTS as error:
        raise PublishError(f"space {space_id}: {reason_of(error)}") from error
    files = {file.rfilename for file in found.siblings or ()}
    if found.sdk not in (None, SDK):
        raise PublishError(
            f"space {space_id}: there is a Space of this name with the sdk {found.sdk}; expected {SDK}; choose another name:"
            " --space owner/name"
        )
    others = sorted(path for path in files if not _is_ours(path))
    if others or ("app.py" in files and f"{SOURCE}/__init__.py" not in files):
        first = others[0] if others else "app.py"
        raise PublishError(
            f"space {space_id}: there is another Space of this name, with a file of its own, {first}; choose another name:"
            " --space owner/name"
        )


def assemble_space(draft: Path, run: Path, repo_id: str, space_id: str, licence: Licence) -> None:
    """Write the files of a Space into an empty folder.

    Raises:
        PublishError: when a file contains what looks like a Hub token, or the package's files cannot be told from others.
    """
    for file in source_files(PACKAGE):
        (draft / SOURCE / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, draft / SOURCE / file)
        check_secret(f"{SOURCE}/{file.as_posix()}", (PACKAGE / file).read_bytes())
    pins = {name: importlib.metadata.version(name).partition("+")[0] for name in NEEDS}
    (draft / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    (draft / "app.py").write_text(APP.substitute(repo_id=repo_id, source=SOURCE))
    values = {
        "name": space_id.split("/")[-1],
        "title": json.dumps(space_id.split("/")[-1]),
        "sdk": SDK,
        "sdk_version": pins["gradio"],
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "repo_id": repo_id,
        "licence": licence.id,
        **_words(run),
    }
    (draft / "README.md").write_text(CARD.substitute(values), encoding="utf-8")


def _words(run: Path) -> dict[str, str]:
    """What the README says of what is scored, and of what the page shows of it."""
    modalities, rated = (
        run_folder.read_metrics(run)["modalities"],
        what_is_rated(run_targets(run_folder.read_config(run))),
    )
    if modalities == ["text"]:
        one, several, shown = "a text", "texts", ["what each word adds"]
    else:
        one, several = ("a video clip", "video clips") if "video" in modalities else ("an audio clip", "audio clips")
        shown = [*(["what each modality adds"] * (len(modalities) > 1)), "the score over time"]
    description = f"Scores {rated} of {one}"
    return {
        "rated": rated,
        "inputs": several,
        "shown": joined(["the score on its scale", *shown]),
        "description": json.dumps(description if len(description) <= LONGEST_DESCRIPTION else f"Scores {one}"),
    }


def source_files(package: Path = PACKAGE) -> list[Path]:
    """The package's files that belong into a Space, relative to the package; of a git clone only those that git tracks.

    Raises:
        PublishError: when git cannot list the files of a clone.
    """
    folders = [package, *(init.parent for init in sorted(package.glob("*/__init__.py")))]
    found = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in SOURCE_SUFFIXES]
    at_root = {file for file in found if file.parent == package and file.suffix != ".py"}
    files = [file.relative_to(package) for file in [*found, package / "LICENSE"] if file not in at_root]
    if not (package / ".git").exists():
        return files
    tracked = _tracked(package)
    return [file for file in files if file.as_posix() in tracked]


def _tracked(clone: Path) -> set[str]:
    """The files that git tracks in a clone, relative to it."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=clone, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise PublishError(
            f"{clone} is a git clone, of which only tracked files are published, and `git ls-files` fails: {reason};"
            " install or repair git, or install the package from a wheel"
        ) from error
    return set(listed.split("\0"))


def _is_ours(path: str) -> bool:
    return path in OWN_FILES or path.startswith(f"{SOURCE}/")
