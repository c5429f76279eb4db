"""omnisent: multimodal sentiment scores read directly out of an omni-modal LLM's hidden state."""

__version__ = "0.1.0"
