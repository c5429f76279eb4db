"""How tests of settings see what is refused."""

import pytest
import yaml

from omnisent.training.arguments import parse_arguments


@pytest.fixture
def refused(tmp_path):
    """The one line that settings end in, from a file or from the command line."""

    def line(settings: dict | None, *argv: str) -> str:
        if settings is not None:
            path = tmp_path / "run.yaml"
            path.write_text(yaml.safe_dump(settings))
            argv = (str(path), *argv)
        with pytest.raises(ValueError) as stopped:  # noqa: PT011  every caller looks for the field's name
            parse_arguments([*argv, "--use_cpu"])
        message = str(stopped.value)
        assert "\n" not in message
        assert len(message) < 1000
        return message

    return line
