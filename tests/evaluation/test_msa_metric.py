"""The `evaluate` module, loaded as a stranger would: by its path, offline, from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import omnisent
from omnisent.evaluation.metrics import CONVENTIONS, msa_metrics
from omnisent.evaluation.msa_metric import MSAMetric

MODULE = Path(omnisent.__file__).parent / "evaluation" / "msa_metric.py"
SCORES, LABELS = [2.4, -0.2, 0.5, -3.4, 0.0, 0.1], [2.0, 0.4, 0.0, -2.6, -1.0, 0.1]
PROGRAM = """
import json, sys
import evaluate
module, scores, labels = sys.argv[1], *map(json.loads, sys.argv[2:])
found = {}
for name in ("mosi", "sims", "generic"):
    metric = evaluate.load(module, name)
    found[name] = metric.compute(predictions=scores, references=labels)
    for half in (slice(0, 3), slice(3, None)):
        metric.add_batch(predictions=scores[half], references=labels[half])
    found[name + " in batches"] = metric.compute()
try:
    evaluate.load(module)
except ValueError as error:
    found["error"] = str(error)
found["metrics from"] = sys.modules[type(metric).__module__.rsplit(".", 1)[0] + ".metrics"].__file__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def found(elsewhere) -> dict:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(elsewhere / "home"),
        "HF_MODULES_CACHE": str(elsewhere / "modules"),
    }
    command = [sys.executable, "-c", PROGRAM, str(MODULE), json.dumps(SCORES), json.dumps(LABELS)]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_loaded_module_gives_the_values_of_msa_metrics(found, convention):
    assert found[convention] == msa_metrics(SCORES, LABELS, convention)
    assert found[f"{convention} in batches"] == found[convention]


def test_loaded_module_carries_its_formulas_along(found, elsewhere):
    assert Path(found["metrics from"]).is_relative_to(elsewhere / "modules")


def test_loading_without_a_convention_names_all(found):
    assert "'mosi', 'sims', 'generic'" in found["error"]
    assert "'default'" in found["error"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_module_says_what_it_takes_and_computes(convention, tmp_path):
    metric = MSAMetric(convention, cache_dir=str(tmp_path))
    assert metric.compute(predictions=SCORES, references=LABELS) == msa_metrics(SCORES, LABELS, convention)
    assert {name: feature.dtype for name, feature in metric.features.items()} == {
        "predictions": "float64",
        "references": "float64",
    }
    assert "Mao" in metric.citation
    assert "sentiment" in metric.description
    assert metric.inputs_description == msa_metrics.__doc__
    with pytest.raises(ValueError, match=r"references: 1 values are not finite.* first at index 0"):
        metric.compute(predictions=[0.0, 1.0], references=[float("nan"), 1.0])


def test_the_module_takes_no_other_convention(tmp_path):
    with pytest.raises(ValueError, match="one of 'mosi', 'sims', 'generic', when loading; found 'mosei'"):
        MSAMetric("mosei", cache_dir=str(tmp_path))
