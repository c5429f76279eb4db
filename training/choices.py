"""Choices for loading a model, shared by commands and configs; imports nothing, so that help is fast."""

QUANTIZATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float16", "float32")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
