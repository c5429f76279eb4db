"""A run on its way to the Hub and back: the real client, in processes of its own, against a Hub on the loopback address."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load, load_file

from elsewhere import WITHOUT_PACKAGE
from loopback_hub import OWNER, TOKEN, LoopbackHub, Repository
from omnisent.configuration_omnisent import REQUIRES
from omnisent.hub import publish
from omnisent.hub.licence import UNSTATED
from omnisent.hub.publish import PublishError, assemble, check_bundle, check_run, measure_drift, merge, publish_run
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.thinker_omnisent import load_thinker
from omnisent.train import run
from omnisent.training.arguments import ModelArguments, parse_arguments
from omnisent.training.backbone import quantization_config
from omnisent.training.run_folder import read_config, read_metrics, read_predictions
from prepared import PreparedPython

NAME, MERGED, BASE = f"{OWNER}/clips", f"{OWNER}/clips-merged", f"{OWNER}/tiny-base"

TRAIN_AND_PUBLISH = """
import sys
from pathlib import Path
from omnisent.cli import main
from omnisent.train import run
from omnisent.training.arguments import parse_arguments

config, out, name, merged = sys.argv[1:]
for seed in ("0", "1"):
    run(*parse_arguments([config, "--seed", seed, "--output_dir", f"{out}/v{seed}"]))
for arguments in ([f"{out}/v0", name], [f"{out}/v1", name], [f"{out}/v0", merged, "--merged"]):
    sys.argv[1:] = ["publish", *arguments, "--license", "mit"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
"""

VISIT = (
    WITHOUT_PACKAGE
    + """
import torch
from transformers import AutoModel, AutoProcessor, pipeline

name, merged, v1, clips = *sys.argv[1:4], json.loads(sys.argv[4])
trust = {"trust_remote_code": True}
found = {}

def scores(of, **options):
    model = AutoModel.from_pretrained(of, **trust, **options)
    processor = AutoProcessor.from_pretrained(of, **trust, **options)
    with torch.no_grad():
        return model, model(**processor(clips, return_tensors="pt")).scores.tolist()

model, found["latest"] = scores(name)
found["class"] = type(model).__module__.split(".")[0]
found["pinned"] = scores(name, revision=v1)[1]
found["merged"] = scores(merged)[1]
pipe = pipeline("multimodal-sentiment", model=name, **trust)
found["pipe"] = pipe(clips, batch_size=len(clips))
found["interval"] = [pipeline("multimodal-sentiment", model=of, **trust)(clips[0], interval=0.9) for of in (name, merged)]
found["pipe_by_model_alone"] = pipeline(model=name, **trust)(clips[0])
pipe.save_pretrained("saved")
AutoProcessor.from_pretrained(name, **trust).save_pretrained("saved")
found["saved"] = scores("saved")[1]
found["pipe_of_saved"] = pipeline(model="saved", **trust)(clips[0])
print(json.dumps(found))
"""
)

OFFLINE = """
import json, sys
from transformers import pipeline

print(json.dumps(pipeline(model=sys.argv[1], trust_remote_code=True)(json.loads(sys.argv[2]))))
"""


def _python(hub, home: Path, code: str, *arguments: str, token: str | None = TOKEN, **variables) -> str:
    environment = {**hub.environment(home, token=token), "TOKENIZERS_PARALLELISM": "false", **variables}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def hub(tiny_backbone):
    with LoopbackHub() as hub:
        base = hub.repositories["model", BASE] = Repository()
        base.commit({path.name: path.read_bytes() for path in tiny_backbone.iterdir() if path.is_file()}, set())
        yield hub


@pytest.fixture(scope="module")
def runs(hub, short_config, tmp_path_factory) -> Path:
    """Two runs on a base of the Hub, v0 and v1, published one after the other; and v0 merged."""
    home = tmp_path_factory.mktemp("author")
    config = {**yaml.safe_load(short_config.read_text()), "base_model": BASE}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    _python(hub, home, TRAIN_AND_PUBLISH, home / "config.yaml", home / "runs", NAME, MERGED)
    return home / "runs"


@pytest.fixture(scope="module")
def files(hub, runs) -> dict[str, bytes]:
    repository = hub.repositories["model", NAME]
    return repository.commits[repository.head]


@pytest.fixture(scope="module")
def test_clips(planted_clips) -> list[dict]:
    return [clip.to_dict() for clip in planted_clips if clip.split == "test"][:8]


@pytest.fixture(scope="module")
def visitor(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("visitor")


@pytest.fixture(scope="module")
def visit(hub, runs, test_clips, visitor) -> dict:
    """What a user without this package, without a token and with an empty cache gets."""
    first = list(hub.repositories["model", NAME].commits)[1]
    output = _python(hub, visitor, VISIT, NAME, MERGED, first, json.dumps(test_clips), token=None)
    return json.loads(output.splitlines()[-1])


def _trained(runs: Path, version: str) -> list[float]:
    return read_predictions(runs / version)["score"].tolist()[:8]


def test_a_user_without_the_package_gets_bit_equal_scores(visit, runs):
    assert visit["class"] == "transformers_modules"
    assert visit["latest"] == _trained(runs, "v1")


def test_a_pinned_revision_has_its_own_adapter_and_head(hub, visit, runs):
    assert visit["pinned"] == _trained(runs, "v0") != _trained(runs, "v1")
    first, second = list(hub.repositories["model", NAME].commits.values())[1:3]
    for file in ("head.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = load(first[file]), load(second[file])
        assert any(not ours[name].equal(theirs[name]) for name in ours)


def test_the_merged_form_scores_within_a_hundred_thousandth(hub, visit, runs):
    assert visit["merged"] == pytest.approx(_trained(runs, "v0"), abs=1e-5)
    repository = hub.repositories["model", MERGED]
    published = repository.commits[repository.head]
    assert {"model.safetensors", "handler.py", "serving_omnisent.py", "requirements.txt"} <= published.keys()
    derived_from = {"base_model": BASE, "base_revision": hub.repositories["model", BASE].head}
    assert json.loads(published["config.json"])["derived_from"] == derived_from
    front = yaml.safe_load(published["README.md"].decode().split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == (BASE, "finetune")
    assert not any(path.startswith("adapter/") or path == "head.safetensors" for path in published)


def test_the_pipeline_gives_the_same_scores_and_is_found_by_the_model_id_alone(visit, runs):
    assert [result["score"] for result in visit["pipe"]] == _trained(runs, "v1")
    assert visit["pipe_by_model_alone"]["score"] == pytest.approx(_trained(runs, "v1")[0], abs=1e-6)
    assert all(result.keys() == {"score", "label"} for result in visit["pipe"])


def test_intervals_are_those_of_the_run_from_adapter_and_merged_form(visit, runs):
    for result, version in zip(visit["interval"], ("v1", "v0"), strict=True):
        known = json.loads((runs / version / "model" / "config.json").read_text())["calibration"]
        score, half_width = result["score"], known["half_widths"]["0.9"]
        assert score == pytest.approx(_trained(runs, version)[0], abs=1e-5)
        assert result["low"] == pytest.approx(max(-3, score - half_width))
        assert result["high"] == pytest.approx(min(3, score + half_width))


def test_a_model_saved_again_by_a_user_loads_again(visit, runs):
    assert visit["saved"] == _trained(runs, "v1")
    assert visit["pipe_of_saved"] == visit["pipe_by_model_alone"]


def test_it_works_offline_from_the_cache(hub, visit, visitor, test_clips):
    asked = len(hub.requests)
    output = _python(hub, visitor, OFFLINE, NAME, json.dumps(test_clips[0]), token=None, HF_HUB_OFFLINE="1")
    assert json.loads(output.splitlines()[-1]) == visit["pipe_by_model_alone"]
    assert len(hub.requests) == asked


def test_the_repository_contains_only_the_bundle(hub, files):
    assert set(files) == {
        *("README.md", "LICENSE", "NOTICE", "config.json", "head.safetensors", "training_config.yaml"),
        *("handler.py", "requirements.txt", f".eval_results/{_dataset(files)}.yaml"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *(
            path.name
            for pattern in publish.CODE_FILES
            for path in Path(sys.modules["omnisent"].__file__).parent.glob(pattern)
        ),
        *("processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
    }
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (front["license"], front["pipeline_tag"], front["base_model_relation"]) == (
        "mit",
        "video-classification",
        "adapter",
    )
    assert files["LICENSE"] == (Path(sys.modules["omnisent"].__file__).parent / "LICENSE").read_bytes()
    assert f"Base model: [{BASE}]" in files["NOTICE"].decode()
    config = json.loads(files["config.json"])
    assert config["auto_map"].keys() == {"AutoConfig", "AutoModel", "AutoProcessor"}
    assert config["custom_pipelines"].keys() == {"multimodal-sentiment"}
    assert (config["base_model"], config["base_revision"]) == (BASE, hub.repositories["model", BASE].head)
    assert "quantization_config" not in config
    assert config["requires"] == {package: list(bounds) for package, bounds in REQUIRES.items()}
    root = Path(sys.modules["omnisent"].__file__).parent
    for name in files:
        if name.endswith(".py"):
            assert files[name] == (root / name).read_bytes()
    needed = [f"{package}>={low},<{high}" for package, (low, high) in REQUIRES.items()]
    assert files["requirements.txt"].decode().splitlines() == needed


def _dataset(files) -> str:
    return next(name for name in files if name.startswith(".eval_results/")).split("/")[1].removesuffix(".yaml")


def test_no_file_holds_a_path_a_token_or_a_pickle(files, runs, planted_root, tmp_path):
    for name, data in files.items():
        for place in (runs, planted_root, Path.cwd(), Path(sys.prefix)):
            assert str(place).encode() not in data, name
        assert TOKEN.encode() not in data
        assert not name.endswith((".bin", ".pt", ".pkl", ".pth"))
        assert not data.startswith((b"\x80", b"PK"))
    config = yaml.safe_load(files["training_config.yaml"])
    assert config["lora_r"] == 4
    assert not {"output_dir", "root", "adapter", "hub_token"} & config.keys()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "hello", "notes.txt is not part of a bundle"),
        ("optimizer.pt", "hello", "optimizer.pt is not part of a bundle"),
        ("training_config.yaml", "root: /data/clips/mosi", "contains the local path /data/clips"),
        ("README.md", "token hf_" + "a1B2" * 8, "looks like a Hub token"),
    ],
)
def test_a_bundle_with_a_local_path_a_token_or_another_file_is_not_published(tmp_path, name, text, message):
    (tmp_path / "config.json").write_text('{"data": "/data/clips-other"}')
    check_bundle(tmp_path, forbidden=("/data/clips",))
    (tmp_path / name).write_text(text)
    with pytest.raises(PublishError, match=re.escape(message)):
        check_bundle(tmp_path, forbidden=("/data/clips",))


def test_a_local_base_model_is_refused_with_a_hint(comparison, tmp_path):
    folder = comparison / "discriminative" / "seed-0"
    with pytest.raises(PublishError, match=r"its base model is a local folder, .* --merged"):
        publish_run(folder, NAME, token=TOKEN)
    check_run(folder, merged=True)
    with pytest.raises(PublishError, match="expected a finished discriminative run"):
        check_run(comparison / "generative-trained-greedy" / "seed-0", merged=True)
    with pytest.raises(PublishError, match="expected a finished discriminative run"):
        check_run(tmp_path, merged=True)


def test_an_nf4_run_is_merged_into_dequantised_weights(short_config, test_clips, tmp_path):
    changes = ["--quantization", "nf4", "--output_dir", str(tmp_path / "run"), "--learning_rate", "0.02"]
    run(*parse_arguments([str(short_config), *changes]))
    merge(tmp_path / "run", tmp_path / "merged")
    OmniSentProcessor.from_pretrained(tmp_path / "run" / "model").save_pretrained(tmp_path / "merged")
    model = OmniForSentimentRegression.from_pretrained(tmp_path / "merged")
    assert model.config.base_model is None
    assert not any("lora" in name or "absmax" in name for name in model.state_dict())
    scores = model(**OmniSentProcessor.from_pretrained(tmp_path / "merged")(test_clips)).scores.tolist()
    assert scores == pytest.approx(_trained(tmp_path, "run"), abs=1e-5)
    assert np.ptp(scores) > 0.01


def test_a_merged_model_is_compared_with_its_run_and_refused_if_scores_change_too_much(
    short_config, tiny_backbone, tmp_path
):
    changes = ["--output_dir", str(tmp_path / "run"), "--learning_rate", "0.02", "--dtype", "bfloat16"]
    changes += ["--quantization", "nf4"]
    run(*parse_arguments([str(short_config), *changes]))
    (tmp_path / "draft").mkdir()
    assemble(tmp_path / "run", tmp_path / "draft", "org/name", licence=UNSTATED, merged=True)
    known = read_predictions(tmp_path / "run", split="valid")
    drift = measure_drift(tmp_path / "run", tmp_path / "draft")
    assert drift.clips == len(known) == 16
    assert 0 < drift.mean < drift.largest < 0.05
    card = (tmp_path / "draft" / "README.md").read_text()
    assert f"Merging changed the scores of 16 validation clips by {drift.mean:.4f} on\naverage" in card
    file = load_file(tmp_path / "draft" / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj"
    adapter = load_file(tmp_path / "run" / "model" / "adapter" / "adapter_model.safetensors")
    scale = 32 / read_config(tmp_path / "run")["lora_r"]
    change = scale * (adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"])
    nf4 = quantization_config(ModelArguments(dtype="bfloat16"))
    thinker = load_thinker(tiny_backbone, dtype=torch.bfloat16, quantization_config=nf4)
    thinker.dequantize(dtype=torch.float32)
    base = thinker.language_model.layers[0].mlp.up_proj.weight
    assert torch.equal(file[f"{name}.weight"], (base + change).bfloat16())  # rounded once

    moved = known.assign(score=known["score"] + 0.2)
    moved.to_csv(tmp_path / "run" / "valid_predictions.csv", index=False)
    with pytest.raises(
        PublishError, match=r"merging changes the scores of 16 validation clips by 0\.\d+ on average, at most"
    ):
        measure_drift(tmp_path / "run", tmp_path / "draft")
    (tmp_path / "run" / "valid_predictions.csv").unlink()
    with pytest.raises(PublishError, match="is checked on the run's validation clips, which are missing"):
        measure_drift(tmp_path / "run", tmp_path / "draft")


@pytest.fixture(scope="module")
def publish_again(hub, runs, tmp_path_factory):
    """Publishes run v0 under another name, as a command of its own."""
    home = tmp_path_factory.mktemp("again")
    with PreparedPython(hub.environment(home)) as python:

        def publish(repo_id: str, *, token: str | None = TOKEN, code: str = "from omnisent.cli import main; main()"):
            arguments = ("publish", str(runs / "v0"), repo_id, "--license", "mit")
            return python.run(code, *arguments, cwd=home, token=token)

        yield publish


def test_a_server_error_publishes_nothing_and_the_next_try_completes_it(hub, publish_again, files):
    name = f"{OWNER}/interrupted"
    hub.fail = 1
    failed = publish_again(name)
    assert failed.returncode == 1
    assert re.match(rf"omnisent: {name}: not published: .*publish again", failed.stderr.strip().splitlines()[-1])
    assert hub.repositories["model", name].commits[hub.repositories["model", name].head] == {}
    done = publish_again(name)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", name]
    assert repository.commits[repository.head].keys() == files.keys()
    assert len(repository.commits) == 2


@pytest.mark.parametrize("fault", ["cut", "full"])
def test_a_lost_connection_or_a_full_disk_is_one_clear_line_and_leaves_nothing(hub, publish_again, fault):
    name = f"{OWNER}/{fault}"
    hub.repositories["model", name] = Repository()
    code = "from omnisent.cli import main; main()"
    if fault == "full":  # as on a disk that is full, a file cannot grow
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
        code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}; {code}"
    hub.cut = 20 if fault == "cut" else 0
    failed = publish_again(name, code=code)
    hub.cut = 0
    assert failed.returncode == 1
    message = failed.stderr.strip().splitlines()[-1]
    assert re.match(rf"omnisent: {name}: not published: .*fix this and publish again", message), failed.stderr[-2000:]
    assert len(hub.repositories["model", name].commits) == 1


def test_without_a_token_or_among_other_files_nothing_is_published(hub, publish_again):
    refused = publish_again(NAME, token=None)
    assert refused.stderr.strip().splitlines()[-1].startswith("omnisent: no Hub token")
    other = hub.repositories["model", f"{OWNER}/other"] = Repository()
    other.commit({"pytorch_model.bin": b"x"}, set())
    refused = publish_again(f"{OWNER}/other")
    assert "contains other files, first pytorch_model.bin; choose another name" in refused.stderr
    assert other.commits[other.head] == {"pytorch_model.bin": b"x"}
    refused = publish_again("somebody-else/model")
    assert refused.returncode == 1
    assert "somebody-else/model: not published" in refused.stderr


def test_the_card_shows_what_the_result_files_hold(files, runs, planted_root):
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    metrics = read_metrics(runs / "v1")
    assert (front["base_model"], front["base_model_relation"], front["library_name"]) == (
        BASE,
        "adapter",
        "transformers",
    )
    results = {entry["name"]: entry["value"] for entry in front["model-index"][0]["results"][0]["metrics"]}
    assert results["MAE"] == pytest.approx(metrics["mae"])
    listed = yaml.safe_load(files[f".eval_results/{planted_root.name}.yaml"])
    assert {entry["dataset"]["task_id"]: entry["value"] for entry in listed}["test_mae"] == pytest.approx(
        metrics["mae"]
    )
    assert f"| this model | {metrics['mae']:.3f} |" in card
    assert f"{metrics['trainable_parameters']:,} trainable parameters" in card
    for text in (
        "employment, credit, policing or health",
        "constant (train median)",
        "| without audio |",
        "label above 0.5",
    ):
        assert text in card
    known = json.loads(files["config.json"])["calibration"]
    assert f"minus and plus {known['half_widths']['0.9']:.2f}" in card
    assert f"calibrated on {known['clips']} validation clips" in card
    assert (
        f"contained {100 * metrics['interval_coverage']:.1f} % of the {metrics['n']} test labels (95 % interval "
        in card
    )
    assert f" to {100 * metrics['interval_coverage_high']:.1f} %)" in card
    assert "Processor settings other than the defaults: min_pixels `3136`, max_pixels" in card
    for package in ("torch", "transformers"):
        assert f"{package} {importlib.metadata.version(package)}" in card
    groups = dict(re.findall(r"^\| ((?:all|label)[^|]*) \| (\d+) \|", card, re.MULTILINE))
    assert int(groups["all"]) == metrics["n"] == sum(int(n) for name, n in groups.items() if name.startswith("label"))
    assert "None" not in card


def test_the_quickstarts_of_the_card_run(hub, visit, files, visitor, test_clips):
    blocks = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)
    assert len(blocks) == 2
    shutil.copy(next(clip["video"] for clip in test_clips if clip["video"]), visitor / "clip.mp4")
    output = _python(hub, visitor, "\n".join(blocks), token=None)
    result, tensor = output.strip().splitlines()[-2:]
    assert set(eval(result)) == {"score", "label"}
    assert float(re.search(r"tensor\(\[(.*?)\]", tensor).group(1)) == pytest.approx(eval(result)["score"], abs=1e-3)


def test_a_run_in_a_comparison_is_shown_with_the_other_readouts_and_baselines(comparison, tmp_path):
    assemble(comparison / "discriminative" / "seed-0", tmp_path, NAME, licence=UNSTATED, merged=True)
    card = (tmp_path / "README.md").read_text()
    found = json.loads((comparison / "comparison.json").read_text())
    for arm in found["arms"].values():
        row = next(line for line in card.splitlines() if line.startswith(f"| {arm['label']} |"))
        assert f"{arm['metrics']['mae']['mean']:.3f}" in row
        assert f"({arm['metrics']['mae']['low']:.3f} to {arm['metrics']['mae']['high']:.3f})" in row
    assert "base_model:" not in card.split("---")[1]
    assert read_config(comparison / "discriminative" / "seed-0")["base_model"] not in card
