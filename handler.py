"""The custom handler of a bundle on Hugging Face Inference Endpoints, which look for this name; serving_omnisent.py does the work.

They run this file by its path, outside any package, so the bundle's other files are loaded as transformers loads remote code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module


class EndpointHandler:
    """Answers the requests to one bundle.

    Args:
        path: the bundle's folder; by default that of this file.
    """

    def __init__(self, path: str = "") -> None:
        folder = str(Path(path or Path(__file__).parent).resolve())
        self._endpoint = get_class_from_dynamic_module("serving_omnisent.Endpoint", folder)(folder)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """The result of a request, or a list of them; see `serving_omnisent.Endpoint`."""
        return self._endpoint(data)
