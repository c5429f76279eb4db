"""Values that loading a model takes, for commands and configs alike; imports nothing, so that help can list them at once."""

QUANTIZATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float16", "float32")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
