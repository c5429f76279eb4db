"""The families of omni-modal models that omnisent reads, by their model_type; a further one is a file and a line here."""

from collections.abc import Mapping
from typing import Any

from .family_omnisent import ThinkerConfig, ThinkerFamily
from .thinker_qwen2_5_omni import Qwen2_5Omni
from .thinker_qwen3_omni import Qwen3Omni

FAMILIES: dict[str, ThinkerFamily] = {family.model_type: family for family in (Qwen2_5Omni(), Qwen3Omni())}
DEFAULT_FAMILY = FAMILIES[Qwen2_5Omni.model_type]  # of bundles that do not say


def family_of(config: Any) -> ThinkerFamily:
    """The family of a Thinker's configuration.

    Raises:
        ValueError: for one of no family in `FAMILIES`.
    """
    return family_of_type(config.model_type)


def family_of_type(model_type: str | None) -> ThinkerFamily:
    """The family of a full checkpoint, or of a Thinker's configuration, by its `model_type`; the oldest bundles have none.

    Raises:
        ValueError: for one of no family in `FAMILIES`.
    """
    for family in FAMILIES.values():
        if model_type in (family.model_type, family.config_class.model_type):
            return family
    if model_type is None:
        return DEFAULT_FAMILY
    raise ValueError(f"model_type {model_type}: expected {' or '.join(FAMILIES)}")


def read_thinker_config(fields: Mapping[str, Any]) -> ThinkerConfig:
    """A Thinker's configuration from its fields.

    Raises:
        ValueError: when its `model_type` is of no family in `FAMILIES`.
    """
    return family_of_type(fields.get("model_type")).config_class(**fields)
