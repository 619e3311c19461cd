"""Shapes of public models, so that they can be timed with no file of theirs: random weights of the
right shape cost what the real ones cost.

Every shape is the repository's own config.json, but those of BASS (2404.15778), whose code models are
private. From the paper are 7.8 B and 310 M parameters; all else is ours, in the shape of Llama: the
target as deep and wide as Llama-2 7B with a wider MLP, the draft of four layers, half as wide, its
embeddings tied; a vocabulary as CodeGen's. 7.80e9 and 0.310e9 parameters come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specbench.errors import InputError


def _llama(
    hidden: int, mlp: int, layers: int, heads: int, vocab: int, positions: int,
    kv_heads: int | None = None, rope: Mapping[str, Any] | None = None, tied: bool = False,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    return "LlamaConfig", {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads or heads,
        "head_dim": hidden // heads, "vocab_size": vocab, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
        "rope_parameters": rope or {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip


def _qwen(
    family: str, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int,
    positions: int, tied: bool, **more: Any,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    return family, {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, **more,
    }  # fmt: skip


def _gemma(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int
) -> tuple[str, dict[str, Any]]:
    return "GemmaConfig", {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256,
        "vocab_size": 256000, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip


def _gemma2(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int
) -> tuple[str, dict[str, Any]]:
    _, shape = _gemma(hidden, mlp, layers, heads, kv_heads)
    return "Gemma2Config", shape | {
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
    }  # fmt: skip


def _gemma3(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, positions: int,
    window: int, factor: float | None = None,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """The text part alone, of those that see too."""
    _, shape = _gemma(hidden, mlp, layers, heads, kv_heads)
    far = {"rope_type": "linear", "factor": factor} if factor else {"rope_type": "default"}
    return "Gemma3TextConfig", shape | {
        "vocab_size": vocab, "max_position_embeddings": positions, "query_pre_attn_scalar": 256,
        "sliding_window": window,
        "layer_types": [
            "sliding_attention" if i % 6 else "full_attention" for i in range(1, layers + 1)
        ],
        "rope_parameters": {
            "full_attention": far | {"rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }  # fmt: skip


def _opt(hidden: int, layers: int, heads: int) -> tuple[str, dict[str, Any]]:
    return "OPTConfig", {
        "hidden_size": hidden, "ffn_dim": 4 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": 50272, "max_position_embeddings": 2048,
        "word_embed_proj_dim": hidden, "tie_word_embeddings": True,
    }  # fmt: skip


def _codegen(hidden: int, layers: int, heads: int, rotary: int) -> tuple[str, dict[str, Any]]:
    return "CodeGenConfig", {
        "n_embd": hidden, "n_layer": layers, "n_head": heads, "rotary_dim": rotary,
        "vocab_size": 51200, "n_positions": 2048, "n_ctx": 2048, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def _whisper(
    width: int, layers: int, heads: int, vocab: int = 51865, mels: int = 80,
    decoder_layers: int | None = None,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    return "WhisperConfig", {
        "d_model": width, "encoder_layers": layers, "decoder_layers": decoder_layers or layers,
        "encoder_attention_heads": heads, "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "vocab_size": vocab,
        "num_mel_bins": mels, "max_source_positions": 1500, "max_target_positions": 448,
    }  # fmt: skip


BASS_TARGET, BASS_DRAFT = "bass-7.8b", "bass-310m"

ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32000, 4096),
    "meta-llama/Llama-2-13b-hf": _llama(5120, 13824, 40, 40, 32000, 4096),
    "princeton-nlp/Sheared-LLaMA-1.3B": _llama(2048, 5504, 24, 16, 32000, 4096),
    "meta-llama/Llama-3.1-8B": _llama(
        4096, 14336, 32, 32, 128256, 131072, kv_heads=8, rope=_llama3_rope(8.0)
    ),
    "meta-llama/Llama-3.2-1B": _llama(
        2048, 8192, 16, 32, 128256, 131072, kv_heads=8, rope=_llama3_rope(32.0), tied=True
    ),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(
        4096, 14336, 32, 32, 128256, 131072, kv_heads=8, rope=_llama3_rope(8.0)
    ),
    "meta-llama/Llama-3.2-1B-Instruct": _llama(
        2048, 8192, 16, 32, 128256, 131072, kv_heads=8, rope=_llama3_rope(32.0), tied=True
    ),
    "Qwen/Qwen1.5-7B": _qwen("Qwen2Config", 4096, 11008, 32, 32, 32, 151936, 32768, False),
    "Qwen/Qwen1.5-0.5B": _qwen("Qwen2Config", 1024, 2816, 24, 16, 16, 151936, 32768, True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen("Qwen2Config", 3584, 18944, 28, 28, 4, 152064, 32768, False),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen("Qwen2Config", 896, 4864, 24, 14, 2, 151936, 32768, True),
    "Qwen/Qwen2.5-7B": _qwen("Qwen2Config", 3584, 18944, 28, 28, 4, 152064, 131072, False),
    "Qwen/Qwen2.5-0.5B": _qwen("Qwen2Config", 896, 4864, 24, 14, 2, 151936, 32768, True),
    "Qwen/Qwen3-8B": _qwen(
        "Qwen3Config", 4096, 12288, 36, 32, 8, 151936, 40960, False, head_dim=128
    ),
    "Qwen/Qwen3-0.6B": _qwen(
        "Qwen3Config", 1024, 3072, 28, 16, 8, 151936, 40960, True, head_dim=128
    ),
    "Qwen/Qwen3-8B-Base": _qwen(
        "Qwen3Config", 4096, 12288, 36, 32, 8, 151936, 32768, False, head_dim=128
    ),
    "Qwen/Qwen3-0.6B-Base": _qwen(
        "Qwen3Config", 1024, 3072, 28, 16, 8, 151936, 32768, True, head_dim=128
    ),
    "google/gemma-7b": _gemma(3072, 24576, 28, 16, 16),
    "google/gemma-2b": _gemma(2048, 16384, 18, 8, 1),
    "google/gemma-2-9b": _gemma2(3584, 14336, 42, 16, 8),
    "google/gemma-2-2b": _gemma2(2304, 9216, 26, 8, 4),
    "google/gemma-2-9b-it": _gemma2(3584, 14336, 42, 16, 8),
    "google/gemma-2-2b-it": _gemma2(2304, 9216, 26, 8, 4),
    "google/gemma-3-12b-it": _gemma3(3840, 15360, 48, 16, 8, 262208, 131072, 1024, factor=8.0),
    "google/gemma-3-1b-it": _gemma3(1152, 6912, 26, 4, 1, 262144, 32768, 512),
    "facebook/opt-13b": _opt(5120, 40, 40),
    "facebook/opt-125m": _opt(768, 12, 12),
    "Salesforce/codegen-16B-mono": _codegen(6144, 34, 24, 64),
    "Salesforce/codegen-350M-mono": _codegen(1024, 20, 16, 32),
    "openai/whisper-tiny": _whisper(384, 4, 6),
    "openai/whisper-base": _whisper(512, 6, 8),
    "openai/whisper-small": _whisper(768, 12, 12),
    "openai/whisper-medium": _whisper(1024, 24, 16),
    "openai/whisper-large": _whisper(1280, 32, 20),
    "openai/whisper-large-v2": _whisper(1280, 32, 20),
    "openai/whisper-large-v3": _whisper(1280, 32, 20, 51866, 128),
    "openai/whisper-large-v3-turbo": _whisper(1280, 32, 20, 51866, 128, decoder_layers=4),
    "openai/whisper-tiny.en": _whisper(384, 4, 6, 51864),
    "openai/whisper-base.en": _whisper(512, 6, 8, 51864),
    "openai/whisper-small.en": _whisper(768, 12, 12, 51864),
    "openai/whisper-medium.en": _whisper(1024, 24, 16, 51864),
    "distil-whisper/distil-small.en": _whisper(768, 12, 12, 51864, decoder_layers=4),
    "distil-whisper/distil-medium.en": _whisper(1024, 24, 16, 51864, decoder_layers=2),
    "distil-whisper/distil-large-v2": _whisper(1280, 32, 20, decoder_layers=2),
    "distil-whisper/distil-large-v3": _whisper(1280, 32, 20, 51866, 128, decoder_layers=2),
    "distil-whisper/distil-large-v3.5": _whisper(1280, 32, 20, 51866, 128, decoder_layers=2),
    BASS_TARGET: _llama(4096, 13312, 32, 32, 51200, 4096),
    BASS_DRAFT: _llama(2048, 5632, 4, 16, 51200, 4096, tied=True),
}
"""By repository: the class of its configuration in transformers, and the arguments."""


def configuration(model: str) -> Any:
    """transformers' configuration of a model: a built-in one, or a local folder's config.json; of one
    that sees too, its text part's.

    Raises:
        InputError: it is neither, or the file cannot be read.
    """
    import transformers

    if model in ARCHITECTURES:
        family, shape = ARCHITECTURES[model]
        return getattr(transformers, family)(**shape)
    if not (Path(model) / "config.json").is_file():
        raise InputError(
            f"the shape of {model} is not known here",
            "`specbench list pairs` shows the pairs whose shapes are built in; a local folder needs "
            "a config.json.",
        )
    try:
        whole = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
        part = whole.get_text_config()
        part.dtype = part.dtype or whole.dtype
        return part
    except Exception as error:  # each architecture complains in its own way
        raise InputError(
            f"{model}/config.json cannot be read: {next(iter(str(error).splitlines()), '')}",
            "Give a folder written by save_pretrained().",
        ) from error


def count_parameters(config: Any) -> int:
    """Parameters of a causal language model or of Whisper, tied embeddings once; takes no memory.

    Raises:
        InputError: it is neither.
    """
    return int(_skeleton(config, "float32").num_parameters())


def count_encoder_parameters(config: Any) -> int:
    """Those of them that hear."""
    return int(_skeleton(config, "float32").get_encoder().num_parameters())


def dummy_dtype(asked: str, device: str) -> str:
    """The dtype of random weights: "auto" is float32 on a CPU and bfloat16 elsewhere."""
    if asked != "auto":
        return asked
    return "float32" if device == "cpu" else "bfloat16"


def dummy_model(config: Any, device: str, dtype: str, seed: int) -> Any:
    """A model in eval mode with random weights, made on the device without a copy elsewhere.

    They are those of an untrained model: normal noise of the configuration's own width, norms that
    scale by 1, no biases. The same seed gives the same weights on the same kind of device.

    Args:
        config: of a causal language model.
        device: a torch device.
        dtype: "float32", "float16", "bfloat16", or "auto": float32 on a CPU, else bfloat16.
        seed: of the noise.
    """
    import torch

    model = _skeleton(config, dummy_dtype(dtype, device)).to_empty(device=device)
    model.tie_weights()  # to_empty() gave each of two tied weights memory of its own
    gpu = torch.device(device)
    forked = [gpu.index or 0] if gpu.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            # transformers' own, so that buffers without a file, as the rotary frequencies, come right
            # too, and so does a norm that scales by 1 + weight.
            model._init_weights(module)
    return model.eval()


def _skeleton(config: Any, dtype: str) -> Any:
    """The model without memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSpeechSeq2Seq

    hears = config.model_type == "whisper"
    auto_class = AutoModelForSpeechSeq2Seq if hears else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return auto_class.from_config(config, dtype=getattr(torch, dtype))
    except Exception as error:  # each architecture complains in its own way
        raise InputError(
            f"no model can be made of this {type(config).__name__}: "
            f"{next(iter(str(error).splitlines()), '')}",
            "Give the configuration of a causal language model.",
        ) from error
