"""Bundles that an earlier version of this code made load and score the same: to the bit with the code inside them, and to 1e-5
with today's code, whose vision tower embeds patches by one matrix product, which adds up in another order.

The bundle is made here, by the code of an earlier commit in processes of its own, so that no old file has to be kept.
"""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BitsAndBytesConfig

import omnisent
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import SETTINGS, OmniSentProcessor

pytestmark = pytest.mark.slow

ROOT = Path(omnisent.__file__).resolve().parent
OLD_COMMIT = "712d0e0"  # the last before the Thinker, heads and adapters had files of their own
CLIPS = 6
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
SCORE = """
import json, sys, torch
from transformers import BitsAndBytesConfig
bundle, clips, quantize = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
options = {"dtype": torch.float32}
if quantize:
    options["quantization_config"] = BitsAndBytesConfig(**quantize, bnb_4bit_compute_dtype=torch.float32)
"""
SCORE_WITH_THE_OLD_PACKAGE = f"""{SCORE}
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
model = OmniForSentimentRegression.from_pretrained(bundle, **options)
processor = OmniSentProcessor.from_pretrained(bundle)
with torch.no_grad():
    scores = [model(**processor([clip])).scores.item() for clip in clips]
print(json.dumps({{"scores": scores, "file": sys.modules["omnisent"].__file__}}))
"""
SCORE_WITH_THE_BUNDLES_OWN_CODE = f"""{SCORE}
from transformers import AutoModel, AutoProcessor, pipeline
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "omnisent":
            raise ImportError("omnisent is not installed here")
sys.meta_path.insert(0, Refuse())
model = AutoModel.from_pretrained(bundle, trust_remote_code=True, **options)
processor = AutoProcessor.from_pretrained(bundle, trust_remote_code=True)
with torch.no_grad():
    scores = [model(**processor([clip])).scores.item() for clip in clips]
pipe = pipeline("multimodal-sentiment", model=bundle, trust_remote_code=True, model_kwargs=options)
piped = [result["score"] for result in pipe(clips)]
print(json.dumps({{"scores": scores, "piped": piped, "module": type(model).__module__}}))
"""


@pytest.fixture(scope="module")
def old_root(tmp_path_factory) -> Path:
    """A folder in which `omnisent` is the package as it was at the earlier commit."""
    done = subprocess.run(["git", "-C", str(ROOT), "archive", OLD_COMMIT], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no git history with commit {OLD_COMMIT} here: {done.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder / "omnisent", filter="data")
    return folder


def _python(code: str, *arguments: str, folder: Path, package: Path | None = None, timeout: int = 600) -> dict:
    """The last line that some code prints, as JSON."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "" if package is None else str(package),
    }
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_bundle_of_an_earlier_commit_scores_the_same(
    old_root, short_run, tiny_backbone, planted_root, whole_clips, tmp_path, quantization
):
    fields = {**short_run, "base_model": str(tiny_backbone), "dataset": str(planted_root), "max_pixels": 56 * 56}
    fields |= {"quantization": quantization, "output_dir": str(tmp_path / "run")}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(fields))
    train = "import json, sys; from omnisent.train import main; main(sys.argv[1:]); print(json.dumps({}))"
    _python(train, str(config), folder=tmp_path, package=old_root)
    bundle = str(tmp_path / "run" / "model")
    clips = [clip.to_dict() for clip in whole_clips[:CLIPS]]

    quantize = NF4 if quantization == "nf4" else None
    arguments = (bundle, json.dumps(clips), json.dumps(quantize))
    old = _python(SCORE_WITH_THE_OLD_PACKAGE, *arguments, folder=tmp_path, package=old_root)
    assert Path(old["file"]).is_relative_to(old_root)
    assert len(set(old["scores"])) == CLIPS

    remote = _python(SCORE_WITH_THE_BUNDLES_OWN_CODE, *arguments, folder=tmp_path)
    assert remote["module"].startswith("transformers_modules.")
    assert remote["scores"] == old["scores"]
    assert remote["piped"] == old["scores"]

    OmniSentProcessor.from_pretrained(bundle).save_pretrained(tmp_path / "again")
    before, again = (
        json.loads(Path(folder, "processor_config.json").read_text()) for folder in (bundle, tmp_path / "again")
    )
    newer = json.loads(json.dumps({name: SETTINGS[name] for name in again.keys() - before.keys()}))  # lists for tuples
    assert again == {**newer, **before}

    options = {"dtype": torch.float32}
    if quantize:
        options["quantization_config"] = BitsAndBytesConfig(**quantize, bnb_4bit_compute_dtype=torch.float32)
    model = OmniForSentimentRegression.from_pretrained(bundle, **options)
    processor = OmniSentProcessor.from_pretrained(bundle)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes above: more of them may add up in another order
    try:
        with torch.no_grad():
            scores = [model(**processor([clip])).scores.item() for clip in clips]
        assert scores == pytest.approx(old["scores"], rel=0, abs=1e-5)
    finally:
        torch.set_num_threads(threads)
