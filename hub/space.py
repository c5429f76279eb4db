"""Publishes a Space, a web page on the Hub that scores clips with a published bundle: one repository, in one commit.

    omnisent publish RUN_DIR org/name --space [org/page]

The Space holds this package's own source, so that it runs as it was pushed, and pinned versions of what the page imports.
"""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from string import Template

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from .licence import Licence
from .publish import PACKAGE, licence_of_run, publish_run
from .upload import FAULTS, PublishError, publish_folder

SDK = "gradio"
NEEDS = (  # what the page and the modules that it imports import
    *(
        "accelerate",
        "av",
        "datasets",
        "gradio",
        "huggingface-hub",
        "matplotlib",
        "numpy",
        "openpyxl",
        "peft",
        "pyarrow",
    ),
    *("qwen-omni-utils", "safetensors", "soxr", "torch", "torchvision", "tqdm", "transformers"),
)
SOURCE = "omnisent"
OWN_FILES = ("README.md", "app.py", "requirements.txt", ".gitattributes")
SOURCE_SUFFIXES = (".py", ".css", ".js", ".j2", ".md")
APP = Template('''"""Scores clips with $repo_id; the page's code is in $source/."""

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
short_description: Scores the sentiment of a video clip
---

# $title

A page that scores clips with [$repo_id](https://huggingface.co/$repo_id): the score on its scale, what each modality adds, and the
score over time. What the model is for, and what it is not for, is on its card.

The Space runs as it is. Choose hardware that holds the model: on a base of 7B parameters, a GPU with 24 GB or more. If the model is
private or gated, set a token that can read it as the secret `HF_TOKEN` in the Space's settings.

`omnisent/` is the source of the package that the page runs on, under Apache-2.0 (`omnisent/LICENSE`).
""")


def publish_with_space(
    run: str | Path,
    repo_id: str,
    space_id: str,
    *,
    merged: bool = False,
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> tuple[str, str]:
    """Publish a run, and a Space that scores with it; that the Space can be written is checked before anything is published.

    Args:
        space_id: `owner/name` of the Space, which may be that of the bundle.
        run, repo_id, merged, license, private, token: as in `publish_run`; `private` applies to both.

    Returns:
        The URLs of the two commits.

    Raises:
        PublishError: what went wrong, and whether the bundle was published.
    """
    check_space(space_id, token=token)
    licence = licence_of_run(Path(run), license)
    bundle = publish_run(run, repo_id, merged=merged, license=license, private=private, token=token)
    try:
        return bundle, publish_space(repo_id, space_id, licence=licence, private=private, token=token)
    except PublishError as error:
        raise PublishError(f"the bundle is published ({bundle}), and its Space is not: {error}") from error


def publish_space(
    repo_id: str, space_id: str, *, licence: Licence, private: bool = False, token: str | None = None
) -> str:
    """Upload the Space of a published bundle in one commit; publishing again replaces it.

    Args:
        repo_id: of the bundle.
        space_id, private, token: as in `publish_folder`, which also says what is returned and raised.
        licence: of the bundle.
    """
    return publish_folder(
        space_id,
        repo_type="space",
        space_sdk=SDK,
        assemble=lambda draft: assemble_space(draft, repo_id, space_id, licence),
        is_ours=_is_ours,
        replaced=("*",),
        message=f"Serve {repo_id}",
        private=private,
        token=token,
    )


def check_space(space_id: str, *, token: str | None = None) -> None:
    """Check that a Space of this name can be written.

    Raises:
        PublishError: without a token, for an invalid name, or for another Space that has the name.
    """
    token = token or get_token()
    if token is None:
        raise PublishError("no Hub token: run `hf auth login`, or set HF_TOKEN, and publish again")
    try:
        found = HfApi(token=token).space_info(space_id)
    except RepositoryNotFoundError:
        return  # it will be created
    except FAULTS as error:
        raise PublishError(f"space {space_id}: {str(error).strip().splitlines()[0]}") from error
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


def assemble_space(draft: Path, repo_id: str, space_id: str, licence: Licence) -> None:
    """Write the files of a Space into an empty folder."""
    for file in source_files():
        (draft / SOURCE / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, draft / SOURCE / file)
    pins = {name: importlib.metadata.version(name).partition("+")[0] for name in NEEDS}
    (draft / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    (draft / "app.py").write_text(APP.substitute(repo_id=repo_id, source=SOURCE))
    values = {
        "title": json.dumps(space_id.split("/")[-1]).strip('"'),
        "sdk": SDK,
        "sdk_version": pins["gradio"],
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "repo_id": repo_id,
        "licence": licence.id,
    }
    (draft / "README.md").write_text(CARD.substitute(values), encoding="utf-8")


def source_files() -> list[Path]:
    """The package's files that belong into a Space, relative to the package."""
    folders = [PACKAGE, *(init.parent for init in sorted(PACKAGE.glob("*/__init__.py")))]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in SOURCE_SUFFIXES]
    at_root = {file for file in files if file.parent == PACKAGE and file.suffix != ".py"}
    return [file.relative_to(PACKAGE) for file in [*files, PACKAGE / "LICENSE"] if file not in at_root]


def _is_ours(path: str) -> bool:
    return path in OWN_FILES or path.startswith(f"{SOURCE}/")
