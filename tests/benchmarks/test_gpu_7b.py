"""The GPU benchmark walks its whole path at tiny size, and counts what it says it counts."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import omnisent

BENCHMARKS = Path(omnisent.__file__).parent / "benchmarks"


@pytest.fixture
def gpu_7b(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "gpu_7b"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import common
    import gpu_7b

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_7b, "REPEATS", 1)
    monkeypatch.setattr(gpu_7b, "TRAIN_BATCHES", (1, 2))
    monkeypatch.setattr(gpu_7b, "SCORE_BATCHES", (1,))
    return gpu_7b


@pytest.mark.slow
def test_it_runs_completely_at_tiny_size(gpu_7b, tmp_path, capsys):
    gpu_7b.main(["--size", "tiny"])
    found = json.loads((tmp_path / "gpu_tiny.json").read_text())
    what = {row["what"] for row in found["rows"]}
    assert {"train paper", "train llm", "train llm, cached"} <= what
    assert {"discriminative, float32", "discriminative, NF4, cached", "generative, expected, NF4"} <= what
    assert {"vision tower, transformers", "vision tower, omnisent"} <= what
    assert len(found["rows"]) == 2 * 2 + 3 * 2 * 2 + 2 * 1 * 2 * 3
    assert all(row["seconds"]["median"] > 0 and row["share_of_matmul_rate"] > 0 for row in found["rows"])
    assert {"processor", "commit", "versions"} <= found["machine"].keys()
    assert capsys.readouterr().out.strip().splitlines()[-2].split()[-1].replace(".", "").isdigit()


def test_it_stops_in_time_and_says_what_it_left_out(gpu_7b, tmp_path):
    found = gpu_7b.main(["--size", "tiny", "--minutes", "0.05"])
    assert found["rows"][-1]["skipped"] == "out of time"


def test_the_operations_of_a_forward_pass_are_those_that_torch_counts(gpu_7b):
    bench = gpu_7b.Bench("tiny", 5)
    thinker = bench.thinker(nf4=False)
    model = gpu_7b._regression(bench, thinker.model).eval()
    batch = bench.batch(1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**batch)
    assert bench.forward_operations(towers=True) == pytest.approx(counter.get_total_flops(), rel=0.35)
