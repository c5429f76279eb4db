"""omnisent: multimodal sentiment scores read directly out of an omni-modal LLM's hidden state."""

__version__ = "0.1.0"


def register() -> None:
    """Register omnisent with the Auto classes and pipelines of transformers; no `trust_remote_code` is needed then.

    `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline("multimodal-sentiment")` load a bundle with the code of this package;
    none of the bundle's own code runs.

    Example:
        >>> import omnisent
        >>> omnisent.register()
        >>> model = AutoModel.from_pretrained("org/omnisent")
    """
    # Here, so that `import omnisent` and the command's help do not import torch.
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_omnisent import CUSTOM_PIPELINES, OmniSentConfig
    from .modeling_omnisent import OmniForSentimentRegression
    from .pipeline_omnisent import MultimodalSentimentPipeline
    from .processing_omnisent import OmniSentProcessor

    AutoConfig.register(OmniSentConfig.model_type, OmniSentConfig, exist_ok=True)
    AutoModel.register(OmniSentConfig, OmniForSentimentRegression, exist_ok=True)
    AutoProcessor.register(OmniSentConfig, OmniSentProcessor, exist_ok=True)
    for task, facts in CUSTOM_PIPELINES.items():
        if task not in PIPELINE_REGISTRY.get_supported_tasks():
            PIPELINE_REGISTRY.register_pipeline(
                task, MultimodalSentimentPipeline, pt_model=AutoModel, type=facts["type"]
            )
