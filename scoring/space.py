"""Serves a published bundle's page on a Space of the Hub, whose app.py calls this."""

import os
import sys

from .app import serve
from .loading import Loading, load_pipeline


def serve_bundle(repo_id: str) -> None:
    """Load a bundle from the Hub and serve its page where a Space expects it, until the Space is stopped."""
    try:
        pipeline = load_pipeline(Loading(repo_id))
    except OSError as error:
        sys.exit(
            f"{repo_id} cannot be loaded: {' '.join(str(error).split())}. If it or its base model is private or gated, set a token"
            " that can read it as the secret HF_TOKEN in this Space's settings"
        )
    serve(pipeline, host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
