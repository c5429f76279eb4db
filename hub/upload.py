"""Uploads to the Hub: assemble a folder, check the contents of the repository, and upload everything in one commit."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

# The base classes of the Hub's error are OSError and the HTTP client's error, which a lost connection raises.
FAULTS = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, HFValidationError, SafetensorError))


class PublishError(ValueError):
    """Publishing failed; nothing was committed to the Hub."""


def hub_api(token: str | None) -> HfApi:
    """The Hub with a token, or else the saved one.

    Raises:
        PublishError: without a token.
    """
    token = token or get_token()
    if token is None:
        raise PublishError("no Hub token: run `hf auth login`, or set HF_TOKEN, and publish again")
    return HfApi(token=token)


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def publish_folder(
    repo_id: str,
    *,
    repo_type: str,
    assemble: Callable[[Path], object],
    is_ours: Callable[[str], bool],
    replaced: Sequence[str],
    message: str,
    space_sdk: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload what `assemble` writes in one commit; running it again replaces what an earlier run published.

    Args:
        repo_id: `owner/name` on the Hub; created when it does not exist.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        assemble: writes the files into a given empty folder.
        is_ours: whether a file of the repository may be replaced; any other file is an error.
        replaced: patterns of files to delete unless they are uploaded again.
        message: of the commit.
        space_sdk: of a Space, when it is created.
        private: make the repository private, when it is created; one that exists must be private then.
        token: Hub token, instead of the saved one.

    Returns:
        The URL of the commit.

    Raises:
        PublishError: what went wrong and what to do, in one line. Nothing was committed then.
    """
    api = hub_api(token)
    with tempfile.TemporaryDirectory(prefix="omnisent-") as draft:
        try:
            assemble(Path(draft))
            api.create_repo(repo_id, repo_type=repo_type, space_sdk=space_sdk, private=private, exist_ok=True)
            if private and not api.repo_info(repo_id, repo_type=repo_type).private:
                raise PublishError(
                    f"{repo_id}: not published: it is public, and is to be private; make it private in its settings on the Hub,"
                    " or choose another name"
                )
            others = [path for path in api.list_repo_files(repo_id, repo_type=repo_type) if not is_ours(path)]
            if others:
                raise PublishError(
                    f"{repo_id} contains other files, first {others[0]}; choose another name or empty it first"
                )
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type=repo_type,
                folder_path=draft,
                commit_message=message,
                delete_patterns=list(replaced),
            )
        except FAULTS as error:
            raise PublishError(f"{repo_id}: not published: {reason_of(error)}; fix this and publish again") from error
    return commit.commit_url
