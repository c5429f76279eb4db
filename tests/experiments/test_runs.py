"""How the runs of an experiment start, with and without a GPU."""

import multiprocessing

import pytest
import torch

from omnisent.experiments.runs import _start_context


@pytest.mark.parametrize("gpu", [False, True])
def test_runs_start_from_a_process_that_has_not_initialised_cuda(monkeypatch, gpu):
    """With a GPU, the imports of a fork server would initialise CUDA, and its children could not use it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert _start_context() is multiprocessing.get_context("spawn" if gpu else "forkserver")
