"""The architectures of the tiny models: real classes of each family, two layers deep.

Every recipe returns a model on the CPU in float32 and the processor (or tokenizer) that goes with
it. transformers and torch are imported when a recipe runs, not with this module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from epd_worker.engine import tiny_tokenizer as tokens

_HIDDEN: Final = 64
_VISION: Final = {"hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "in_channels": 3}
_LANGUAGE: Final = {
    "vocab_size": tokens.VOCABULARY_SIZE,
    "hidden_size": _HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": tokens.CONTEXT_TOKENS,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_THETA: Final = 10000.0


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model in memory, ready to be saved."""

    model: Any
    processor: Any
    tokenizer: Any
    rename_weights: Mapping[str, str]
    """Prefixes that transformers saves, and the published checkpoints' names that vLLM reads."""


def qwen2_5_vl() -> TinyModel:
    """Qwen2.5-VL: window attention in the vision tower, M-RoPE in the language model."""
    import transformers as hf

    tokenizer = _qwen_tokenizer()
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [4, 6, 6]}
    vision = {
        **_VISION,
        "depth": 2,
        "out_hidden_size": _HIDDEN,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = hf.Qwen2_5_VLConfig(
        text_config=_language(tokenizer, **rope),
        vision_config=vision,
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    images = hf.Qwen2VLImageProcessor(**_patches(14))
    videos = hf.Qwen2VLVideoProcessor(**_patches(14))
    processor = hf.Qwen2_5_VLProcessor(images, tokenizer, videos, tokenizer.chat_template)
    return TinyModel(hf.Qwen2_5_VLForConditionalGeneration(config), processor, tokenizer, {})


def qwen3_vl() -> TinyModel:
    """Qwen3-VL: DeepStack, so that an embedding is wider than the language model."""
    import transformers as hf

    tokenizer = _qwen_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {
        **_VISION,
        "depth": 2,
        "out_hidden_size": _HIDDEN,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0],
    }
    config = hf.Qwen3VLConfig(
        text_config=_language(tokenizer, **rope),
        vision_config=vision,
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = hf.Qwen2VLImageProcessor(**_patches(16), **normal)
    videos = hf.Qwen3VLVideoProcessor(**_patches(16), **normal)
    processor = hf.Qwen3VLProcessor(images, tokenizer, videos, tokenizer.chat_template)
    return TinyModel(hf.Qwen3VLForConditionalGeneration(config), processor, tokenizer, {})


def llava() -> TinyModel:
    """LLaVA: a CLIP tower of one image size, a projector, and Llama."""
    import transformers as hf

    tokenizer = tokens.train_tokenizer(tokens.LLAVA_IMAGE)
    image_token_id = tokenizer.convert_tokens_to_ids(tokens.LLAVA_IMAGE)
    vision = hf.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        projection_dim=64,
    )
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**_language(tokenizer)),
        vision_config=vision,
        image_token_index=image_token_id,
        image_token_id=image_token_id,
        image_seq_length=16,
        vision_feature_layer=-2,
        **_end_ids(tokenizer),
    )
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token=tokens.LLAVA_IMAGE,
        num_additional_image_tokens=1,
    )
    names = {"vision_tower.": "vision_tower.vision_model."}
    return TinyModel(hf.LlavaForConditionalGeneration(config), processor, tokenizer, names)


def text() -> TinyModel:
    """Qwen3: no images at all."""
    import transformers as hf

    tokenizer = tokens.train_tokenizer(image="")
    config = hf.Qwen3Config(**_language(tokenizer, rope_type="default"))
    return TinyModel(hf.Qwen3ForCausalLM(config), tokenizer, tokenizer, {})


RECIPES: Final[Mapping[str, Callable[[], TinyModel]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava": llava,
    "text": text,
}


def save(recipe: Callable[[], TinyModel], folder: Path) -> int:
    """Make the recipe's model with reproducible random weights in `folder`.

    Returns the number of parameters.
    """
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(0)
    tiny = recipe()
    model = tiny.model.float().eval()
    _draw_weights(model, tokens.silent_token_ids(tiny.tokenizer))
    model.generation_config = GenerationConfig(**_end_ids(tiny.tokenizer))
    model.save_pretrained(folder)
    if tiny.rename_weights:
        _rename(folder / "model.safetensors", tiny.rename_weights)
    tiny.processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _draw_weights(model: Any, silent_ids: list[int]) -> None:
    """Draw weights wide enough that greedy choices are far apart and follow the image."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                wide = "embed_tokens" in name or "lm_head" in name
                parameter.normal_(0, 0.5 if wide else 0.08)
        # A score of zero is far below the best of 512 scores, each of deviation 4.
        model.lm_head.weight[silent_ids] = 0


def _rename(weights: Path, names: Mapping[str, str]) -> None:
    """Rewrite a checkpoint's tensor names, prefix by prefix."""
    from safetensors.torch import load_file, save_file

    def renamed(name: str) -> str:
        for old, new in names.items():
            if old in name and new not in name:
                return name.replace(old, new, 1)
        return name

    tensors = {renamed(name): tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def _qwen_tokenizer() -> Any:
    """Return a tokenizer whose template writes images and videos as Qwen's do."""
    frame = tokens.VISION_START + "{}" + tokens.VISION_END
    return tokens.train_tokenizer(frame.format(tokens.QWEN_IMAGE), frame.format(tokens.QWEN_VIDEO))


def _language(tokenizer: Any, **rope: Any) -> dict[str, Any]:
    """Return a language model's configuration, with the family's kind of rotary embedding."""
    rope = {"rope_type": "default", "rope_theta": _THETA, **rope}
    return {**_LANGUAGE, "rope_parameters": rope, **_end_ids(tokenizer)}


def _end_ids(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": tokens.QWEN_IMAGE,
        "video_token_id": tokens.QWEN_VIDEO,
        "vision_start_token_id": tokens.VISION_START,
        "vision_end_token_id": tokens.VISION_END,
    }
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}
    return {**ids, **_end_ids(tokenizer)}


def _patches(pixels: int) -> dict[str, Any]:
    """Return a Qwen image processor's settings: four to 256 tokens an image."""
    side = 2 * pixels
    return {
        "patch_size": pixels,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * side * side, "longest_edge": 256 * side * side},
    }
