"""LeRobot's PI05 in the sizes of a test: they are written into its code. Skips where LeRobot or PyTorch is missing."""

from contextlib import contextmanager

import pytest


def torch_with_lerobot():
    """PyTorch, where LeRobot's PI05 is installed, too; a test, or its file, is skipped elsewhere."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("lerobot")
    pytest.importorskip("lerobot.policies.pi05.modeling_pi05")
    return torch


@contextmanager
def lerobot_of_size(config):
    """LeRobot's module with the sizes of a configuration; it must have eight heads in trunk and expert."""
    torch_with_lerobot()
    from lerobot.policies.pi05 import modeling_pi05 as modeling

    experts = {"gemma_2b": config.paligemma, "gemma_300m": config.expert}
    sizes = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    whole, expert = modeling.PaliGemmaForConditionalGenerationWithPiGemma, modeling.PiGemmaForCausalLM

    def gemma_config(variant):
        return modeling.GemmaConfig(**{name: getattr(experts[variant], name) for name in sizes})

    def small_whole(config_hf):
        config_hf._vocab_size = config_hf.image_token_index = config_hf.text_config.vocab_size = config.vocabulary
        config_hf.vision_config.hidden_size = config.siglip.width
        config_hf.vision_config.num_hidden_layers = config.siglip.depth
        config_hf.vision_config.num_attention_heads = config.siglip.num_heads
        config_hf.vision_config.intermediate_size = config.siglip.mlp_dim
        config_hf.vision_config.projection_dim = config.paligemma.width
        return whole(config=config_hf)

    def small_expert(config_hf):
        config_hf.vocab_size = config.vocabulary
        return expert(config=config_hf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "get_gemma_config", gemma_config)
        patch.setattr(modeling, "PaliGemmaForConditionalGenerationWithPiGemma", lambda config: small_whole(config))
        patch.setattr(modeling, "PiGemmaForCausalLM", lambda config: small_expert(config))
        yield modeling
