"""A rule about several settings of a run that contradict each other."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .argument_checks import SettingError, as_yaml


@dataclass(frozen=True)
class Rule:
    """A condition on several fields.

    Attributes:
        fields: the fields concerned; the message shows their values.
        broken: whether the values, by name, break the rule.
        reason: what is wrong and what to do, or a function of the values that returns it.
        of_machine: whether it depends on this machine, so that a plan for another one ignores it.
    """

    fields: tuple[str, ...]
    broken: Callable[[SimpleNamespace], Any]
    reason: str | Callable[[SimpleNamespace], str]
    of_machine: bool = False

    def check(self, values: SimpleNamespace) -> None:
        """Raise a SettingError if the rule is broken."""
        if self.broken(values):
            reason = self.reason if isinstance(self.reason, str) else self.reason(values)
            settings = " with ".join(f"{name} {as_yaml(getattr(values, name))}" for name in self.fields)
            raise SettingError(self.fields, f"{settings}: {reason}")


def fault(attempt: Callable[[], Any]) -> str | None:
    """The reason why something fails; `None` if it does not."""
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return None
