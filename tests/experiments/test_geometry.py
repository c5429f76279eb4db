"""Neighbours in hidden space: a hand-worked example, what chance gives, and real runs of both readouts."""

import json

import numpy as np
import pytest

from omnisent.experiments.geometry import cka, conclusion, geometry, neighbour_differences, rsa


def test_differences_of_a_hand_worked_line():
    """Seven clips at 0, 1, 3, 6, 10, 15, 21: the five nearest of the first leave out the last, and so on."""
    places = np.array([[0.0], [1], [3], [6], [10], [15], [21]])
    labels = np.array([0.0, 1, 2, 3, 2, 1, 0])
    farthest = [6, 6, 6, 6, 0, 0, 0]
    expected = []
    for i, left_out in enumerate(farthest):
        expected += [abs(labels[i] - labels[j]) for j in range(7) if j not in (i, left_out)]
    stored = neighbour_differences(places, labels, permutations=50)
    assert [one.k for one in stored] == [5]
    assert stored[0].difference == pytest.approx(np.mean(expected))


def test_states_with_the_label_differ_from_states_without():
    generator = np.random.default_rng(0)
    labels = generator.uniform(-3, 3, 80)
    noise = generator.normal(size=(80, 8))
    like = neighbour_differences(np.column_stack([10 * labels, noise]), labels)
    assert [one.k for one in like] == [5, 10, 20]
    for one in like:
        assert one.p == pytest.approx(1 / 1001)
        assert one.difference < 0.5 * one.permuted
    gaps = np.abs(labels[:, None] - labels)
    assert like[0].permuted == pytest.approx(gaps.sum() / (80 * 79), rel=0.02)
    by_chance = [
        neighbour_differences(generator.normal(size=(80, 8)), labels, permutations=200)[0].p for _ in range(30)
    ]
    assert np.mean(np.array(by_chance) < 0.05) < 0.2
    assert 0.25 < np.mean(by_chance) < 0.75


def test_knowing_the_video_alone_is_no_structure():
    """Clips of a video have like labels; states are only which video it is."""
    generator = np.random.default_rng(1)
    videos = np.repeat(np.arange(16), 6)
    labels = np.repeat(generator.uniform(-3, 3, 16), 6) + generator.normal(scale=0.3, size=96)
    states = np.repeat(generator.normal(size=(16, 8)), 6, 0) + 0.01 * generator.normal(size=(96, 8))
    assert neighbour_differences(states, labels)[0].p < 0.01
    apart = neighbour_differences(states, labels, list(map(str, videos)))
    assert [one.difference / one.permuted for one in apart] == pytest.approx([1, 1, 1], abs=0.25)
    assert rsa(states, labels, list(map(str, videos))).value < 0.2


def test_cka_and_rsa_are_one_for_states_that_are_the_labels_and_small_by_chance():
    generator = np.random.default_rng(0)
    labels, videos = generator.uniform(-3, 3, 60), [str(place) for place in range(60)]
    assert cka(labels[:, None] * 5 + 2, labels).value == pytest.approx(1)
    assert rsa(labels[:, None] * 5 + 2, labels, videos).value == pytest.approx(1)
    noise = generator.normal(size=(60, 20))
    for found in (cka(noise, labels), rsa(noise, labels, videos)):
        assert found.value < 0.2
        assert found.p > 0.02
    half = np.column_stack([labels, labels[::-1]])
    assert 0.3 < cka(half, labels).value < 0.9


def test_the_untrained_base_model_has_a_geometry(short_config, comparison, tmp_path):
    result = geometry(None, tmp_path, untrained=[str(short_config)])
    stored = json.loads((tmp_path / "geometry.json").read_text())
    assert (stored["readout"], stored["seed"], stored["n"]) == (None, None, 16)
    assert "untrained" in (tmp_path / "geometry.md").read_text()
    trained = geometry(comparison / "discriminative" / "seed-0", tmp_path / "trained")
    assert trained.cka != result.cka
    with pytest.raises(ValueError, match="and not both"):
        geometry(comparison / "discriminative" / "seed-0", tmp_path, untrained=[str(short_config)])


def test_too_few_clips_are_refused():
    with pytest.raises(ValueError, match="5 clips have no 5 neighbours in other videos each"):
        neighbour_differences(np.zeros((5, 2)), np.zeros(5))


@pytest.mark.parametrize("arm", ["discriminative", "generative-trained-greedy"])
def test_geometry_of_a_run_of_either_readout(comparison, tmp_path, arm):
    result = geometry(comparison / arm / "seed-0", tmp_path)
    assert json.loads(json.dumps(result.to_dict())) == json.loads((tmp_path / "geometry.json").read_text())
    stored = json.loads((tmp_path / "geometry.json").read_text())
    assert (stored["readout"], stored["seed"], stored["n"]) == (arm.split("-")[0], 0, 16)
    assert [one["k"] for one in stored["neighbours"]] == [5, 10]
    assert conclusion(result) in (tmp_path / "geometry.md").read_text()
    for name in ("pca.png", "tsne.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    again = geometry(comparison / arm / "seed-0", tmp_path / "again")
    assert again.neighbours == result.neighbours


def test_geometry_needs_a_finished_training_run(comparison, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a finished training run with metrics\.json"):
        geometry(comparison / "generative-zero-shot-greedy" / "seed-0", tmp_path)
