"""Models for several kinds of input, whose language model has states which decay."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from keelback.benchmarks.family_sizes import SPECIAL, TINY, Size, class_named


def glm5_next(size: Size, **fields: Any) -> nn.Module:
    """A language model that comes with a tower for images, here as small as can be."""
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 16,
        "out_hidden_size": size.d_model,
        "projection_intermediate_size": 16,
        "image_size": 28,
    }
    marks = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    config = class_named("Glm5NextConfig")(
        text_config={**size.base, **fields},
        vision_config=vision,
        **{f"{mark}_token_id": size.vocab - 1 - i for i, mark in enumerate(marks)},
    )
    return class_named("Glm5NextForConditionalGeneration")(config)


def _qwen_vision(
    config: str, model: str, text: Callable[[Size], Mapping[str, Any]], **vision: Any
) -> Callable[[Size], nn.Module]:
    """A vision-language model whose language model has gated delta nets."""

    def made(size: Size) -> nn.Module:
        tower = {
            "depth": 2,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": size.d_model,
            "num_position_embeddings": 16,
            **vision,
        }
        marks = ("image", "video", "vision_start", "vision_end")
        whole = class_named(config)(
            text_config={
                **size.base,
                "num_hidden_layers": 4,
                "head_dim": size.head_dim,
                **size.delta,
                **text(size),
            },
            vision_config=tower,
            **{f"{mark}_token_id": size.vocab - 1 - i for i, mark in enumerate(marks)},
        )
        return class_named(model)(whole)

    return made


def _minicpm(name: str) -> Callable[[Size], nn.Module]:
    """A vision-language model around the language model of Qwen3.5."""

    def made(size: Size) -> nn.Module:
        text = {
            **size.base,
            "num_hidden_layers": 4,
            "head_dim": size.head_dim,
            **size.attention,
            **size.delta,
        }
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "insert_layer_id": 0,
        }
        config = class_named(f"{name}Config")(
            text_config={"model_type": "qwen3_5_text", **text},
            vision_config=vision,
            insert_layer_id=0,
            image_token_id=size.vocab - 1,
            video_token_id=size.vocab - 2,
        )
        return class_named(f"{name}ForConditionalGeneration")(config)

    return made


def _nemotron_h(size: Size) -> dict[str, Any]:
    """Of the language model."""
    return {
        **size.base,
        "layers_block_type": ["mamba", "attention", "mamba"],
        **size.nemotron,
    }


def _nemotron_h_omni(size: Size) -> nn.Module:
    """A model for text, images and sound around NemotronH, here without ears."""
    vision = {
        "hidden_size": 16,
        "mlp_ratio": 1.0,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 14,
        "max_img_size": 56,
        "video_temporal_patch_size": 2,
    }
    config = class_named("NemotronH_Omni_Reasoning_V3_Config")(
        text_config=_nemotron_h(size),
        vision_config=vision,
        audio_config=None,
        vision_hidden_size=16,
        projector_hidden_size=16,
        image_token_id=size.vocab - 1,
        video_token_id=size.vocab - 2,
        audio_token_id=size.vocab - 3,
    )
    return class_named("NemotronH_Omni_Reasoning_V3")(config)


def _nemotron_transcribe(size: Size) -> nn.Module:
    """A model that writes down speech: NemotronH behind an ear, and a head that tells speakers."""
    ear = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_mel_bins": 8,
        "subsampling_factor": 2,
    }
    speakers = {
        "audio_config": ear,
        "head_config": {
            "hidden_size": 16,
            "num_speakers": 2,
            "audio_hidden_size": 16,
            "subsampling_factor": 2,
        },
        "streaming_config": {
            "num_speakers": 2,
            "subsampling_factor": 2,
            "speaker_cache_length": 8,
        },
        "chunk_length": 8,
        "chunk_right_context": 2,
    }
    config = class_named("Nemotron3_5TranscribeConfig")(
        text_config=_nemotron_h(size),
        audio_config={"asr_config": ear, "diarization_config": speakers},
        word_timestamp_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 12,
            "blank_token_id": 11,
        },
        audio_token_id=size.vocab - 1,
    )
    return class_named("Nemotron3_5TranscribeForConditionalGeneration")(config)


def jev(size: Size = TINY) -> nn.Module:
    """A model that decides between options at marks in its text, around that of Qwen3.5."""
    text = {
        **size.base,
        "num_hidden_layers": 4,
        "head_dim": size.head_dim,
        **size.attention,
        **size.delta,
    }
    config = class_named("JevConfig")(
        hidden_size=size.d_model, num_verbalizers=12, text_config=text
    )
    return class_named("JevForDecision")(config)


def _one_expert_shared(size: Size) -> dict[str, Any]:
    return {**size.grouped, **size.shared_expert}


def qwen4_exp(size: Size) -> dict[str, Any]:
    """Of the language model of Qwen4."""
    return {
        **_one_expert_shared(size),
        "hc_count": 2,
        "hc_lowrank": 4,
        "ngram_vocab_size_base": 64,
        "make_ngram_vocab_size_divisible_by": 1,
        "split_ngram_parts": 1,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": size.head_dim,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        **SPECIAL,
    }


COMPOSITES: dict[str, Callable[[Size], nn.Module]] = {
    "qwen3.5-vision": _qwen_vision(
        "Qwen3_5Config", "Qwen3_5ForConditionalGeneration", lambda size: size.attention
    ),
    "qwen3.5-moe-vision": _qwen_vision(
        "Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration", _one_expert_shared
    ),
    "qwen4-exp-vision": _qwen_vision(
        "Qwen4ExpConfig", "Qwen4ExpForConditionalGeneration", qwen4_exp
    ),
    "minicpm-v4.6": _minicpm("MiniCPMV4_6"),
    "minicpm-v4.7": _minicpm("MiniCPMV4_7"),
    "minicpm-ocr": _minicpm("MiniCPMOcr"),
    "nemotron-h-omni": _nemotron_h_omni,
    "nemotron-3.5-transcribe": _nemotron_transcribe,
}
"""Models whose language model is a part."""
