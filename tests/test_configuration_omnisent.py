"""What a configuration lets through: fields that can be what they are, and package versions that a bundle runs with."""

import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from omnisent import configuration_omnisent
from omnisent.configuration_omnisent import REQUIRES, OmniSentConfig, check_versions
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.thinker_omnisent import load_thinker

GOOD = {"clips": 20, "half_widths": {"0.5": 0.4, "0.9": 1.1}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label_std", math.nan),
        ("label_std", 1e300),
        ("label_std", 3.01),
        ("label_std", 0.0),
        ("label_std", -1.0),
        ("label_std", "1"),
        ("label_std", True),
        ("label_mean", math.inf),
        ("label_mean", 3.5),
        ("label_mean", None),
        ("score_min", 3.0),
        ("score_max", -math.inf),
        ("head", "deep"),
        ("loss", "l3"),
        ("head_hidden_size", 0),
        ("head_hidden_size", 2.5),
        ("head_dropout", 1.0),
        ("head_dropout", math.nan),
        ("about", ""),
        ("about", 3),
        ("about", "reads text\nonly"),
        ("about", "reads \x1b[1mtext"),
        ("calibration", []),
        ("calibration", {"clips": 20}),
        ("calibration", {**GOOD, "clips": 0}),
        ("calibration", {**GOOD, "half_widths": {"0.9": -4}}),
        ("calibration", {**GOOD, "half_widths": {"0.9": math.nan}}),
        ("calibration", {**GOOD, "half_widths": {"0.9": "1"}}),
        ("calibration", {**GOOD, "half_widths": {"0.9": 6.5}}),
        ("calibration", {**GOOD, "half_widths": {"0.5": 1.2, "0.9": 1.1}}),
        ("calibration", {**GOOD, "half_widths": {"90 %": 1.1}}),
        ("calibration", {**GOOD, "margins": {"0.9": math.nan}}),
        ("calibration", {**GOOD, "margins": {"0.8": 0.1}}),
    ],
)
def test_an_invalid_field_is_refused_by_name_from_code_and_from_a_file(tmp_path, field, value):
    OmniSentConfig(calibration=GOOD).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=field):
        OmniSentConfig(**{field: value})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ValueError, match=field):
        OmniSentConfig.from_pretrained(tmp_path)


def test_the_largest_possible_label_std_is_accepted():
    labels = [-3.0, 3.0]
    config = OmniSentConfig(label_mean=sum(labels) / 2, label_std=3.0, calibration=GOOD)
    assert (config.label_std, config.calibration) == (3.0, GOOD)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ({"av": ("19", "20")}, r"\(av [\d.]+\): pip install \"av>=19,<20\"$"),
        ({"numpy": ("0.1", "1.26")}, r"\"numpy>=0.1,<1.26\"$"),
        (
            {"numpy": ("1", "99"), "no-such-package": ("1", "2")},
            r"\(no-such-package none\): pip install \"no-such-package>=1,<2\"$",
        ),
    ],
)
def test_wrong_versions_give_one_line_with_the_install_command(requires, said):
    with pytest.raises(ImportError, match=said) as raised:
        check_versions(requires)
    assert "\n" not in str(raised.value)


def test_versions_are_checked_before_the_packages_are_imported(tmp_path):
    """With a transformers that is too old, in a process of its own: no bare ImportError of one of its modules."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("")
    (tmp_path / "transformers-4.57.1.dist-info").mkdir()
    (tmp_path / "transformers-4.57.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.1\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import omnisent.configuration_omnisent"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    low, high = REQUIRES["transformers"]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: omnisent does not run with the versions installed here (transformers 4.57.1)")
    assert last.endswith(f'pip install "transformers>={low},<{high}"')


def test_pyproject_requires_the_versions_that_bundles_need(pytestconfig):
    asked = (pytestconfig.rootpath / "pyproject.toml").read_text()
    for package, (low, _) in REQUIRES.items():
        assert f'"{package}>={low}' in asked


def test_a_bundle_needs_the_versions_that_the_package_asks_for():
    project = tomllib.loads((Path(configuration_omnisent.__file__).parent / "pyproject.toml").read_text())["project"]
    asked = dict(re.match(r"([\w-]+)>=(\S+)", dependency).groups() for dependency in project["dependencies"])
    assert {name: asked[name] for name in REQUIRES} == {
        name: f"{low},<{high}" for name, (low, high) in REQUIRES.items()
    }


def test_a_loaded_thinkers_configuration_is_left_as_it_is(tiny_backbone):
    thinker = load_thinker(tiny_backbone, attn_implementation="eager")
    OmniForSentimentRegression(OmniSentConfig(thinker_config=thinker.config), thinker)
    assert thinker.config._attn_implementation == "eager"
    assert thinker.config.text_config._attn_implementation == "eager"
