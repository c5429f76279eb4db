"""`omnisent score --embed`: the states that the head reads, with ids, from which the head gives the scores of the score file."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.scoring import results
from omnisent.scoring.processes import Process
from omnisent.scoring.results import ResumableWriter, Source, row_columns


def head_of(bundle: Path, states: np.ndarray) -> list[float]:
    """The scores that a bundle's head gives to states (n, H)."""
    model = OmniForSentimentRegression.from_pretrained(bundle)
    with torch.no_grad():
        outputs = model.score.layers(torch.from_numpy(states.copy()))
    objective = model.config.objective
    return objective.clip(objective.scores(outputs)).tolist()


def test_the_head_gives_the_scores_of_the_file_to_the_embeddings(score, bundle, planted_root, tmp_path):
    out, table = tmp_path / "s.jsonl", Path(planted_root) / "clips.csv"
    code, _, complained = score("--table", table, "--out", out, "--embed", tmp_path / "e.npz", "--workers", "0")
    assert code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert "pooled" not in rows[0]
    with np.load(tmp_path / "e.npz") as file:
        assert file["ids"].tolist() == [row["id"] for row in rows]
        assert file["embeddings"].dtype == np.float32
        about = json.loads(str(file["about"]))
        states = file["embeddings"]
    assert states.shape == (len(rows), about["hidden_size"])
    assert head_of(bundle, states) == pytest.approx([row["score"] for row in rows], abs=1e-6)
    assert about["model"] == str(bundle)
    assert [about[name] for name in ("layers", "pooling", "pool_over", "about")] == ["last", "last", "all", None]
    assert f"states of {len(rows)} of {len(rows)} clips in {tmp_path / 'e.npz'}" in complained


def test_a_failed_clip_has_no_row_and_a_table_needs_no_other_file(score, bundle, folder, tmp_path):
    code, printed, complained = score(folder, "--json", "--embed", tmp_path / "e.parquet", "--batch-size", "1")
    assert code == 1
    assert "states of 2 of 3 clips in" in complained
    scores = [json.loads(line)["score"] for line in printed.splitlines()]
    table = pq.read_table(tmp_path / "e.parquet")
    assert [Path(one).name for one in table["id"].to_pylist()] == ["a.mp4", "c.mp4"]
    states = np.array(table["embedding"].to_pylist(), np.float32)
    assert head_of(bundle, states) == pytest.approx([scores[0], scores[2]], abs=1e-6)
    assert json.loads(table.schema.metadata[b"omnisent"])["model"] == str(bundle)


def test_rows_of_an_interrupted_command_keep_their_states(tmp_path):
    """They are in the part file, and not in the table."""
    columns, batches = row_columns(), [[Source("a", "1")], [Source("b", "2")]]
    for kept in (0, 1):
        writer = ResumableWriter(tmp_path / "s.jsonl", {}, batches, columns, Process(), aside=("pooled",))
        assert writer.kept == kept
        writer.add(kept, [{"id": "ab"[kept], "score": 1.0, "pooled": f"state {kept}"}])
        if kept == 0:
            writer.close()
    assert [row["pooled"] for row in writer.rows()] == ["state 0", "state 1"]
    writer.finish()
    assert "pooled" not in (tmp_path / "s.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embed", "e.csv"], r"--embed e.csv: expected a file that ends in .npz or .parquet"),
        (
            ["--embed", "e.npz", "--windows", "1s"],
            "--embed cannot be combined with --explain, --windows or --engine ray",
        ),
        (
            ["--embed", "e.npz", "--engine", "ray"],
            "--embed cannot be combined with --explain, --windows or --engine ray",
        ),
        (["--embed", "there.npz"], "there.npz already exists; replace it with --overwrite, or give another --embed"),
    ],
)
def test_what_cannot_be_meant_is_refused(score, folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("there.npz").write_text("mine")
    code, _, complained = score(folder / "a.mp4", *arguments)
    assert code == 1
    assert message in complained
    assert Path("there.npz").read_text() == "mine"


def test_a_command_that_was_stopped_after_it_wrote_the_states_resumes(score, folder, tmp_path, monkeypatch):
    command = (folder / "a.mp4", "--out", tmp_path / "s.csv", "--embed", tmp_path / "e.npz")
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_table", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert score(*command)[0] == 130
    assert (tmp_path / "e.npz").exists()
    code, _, complained = score(*command)
    assert code == 0, complained
    assert (tmp_path / "s.csv").exists()


def test_an_existing_file_is_replaced_on_request_and_a_base_model_has_no_head(score, folder, tiny_backbone, tmp_path):
    file = tmp_path / "e.npz"
    file.write_text("mine")
    assert score(folder / "a.mp4", "--embed", file, "--overwrite")[0] == 0
    assert len(np.load(file)["ids"]) == 1
    code, _, complained = score(folder / "a.mp4", "--embed", tmp_path / "f.npz", "--model", tiny_backbone)
    assert code == 1
    assert "is a base model, which has no head that reads states; give a bundle" in complained
