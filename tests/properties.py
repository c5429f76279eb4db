"""How the property tests draw their examples: the same ones every time, and so few that a file of them takes seconds."""

import os

from hypothesis import HealthCheck, Phase, settings

# A mutant that is noticed needs no smallest example.
_PHASES = (Phase.explicit, Phase.generate) if "MUTANT_UNDER_TEST" in os.environ else tuple(Phase)


def examples(count: int) -> settings:
    """Settings of a test that is given so many examples."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=_PHASES,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
    )
