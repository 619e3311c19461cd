"""Model FLOPs utilisation: what part of a GPU's arithmetic went into the tokens of a batch."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DENSE = ("float16", "bfloat16")

# The name as the driver gives it → (tensor cores in float16 and bfloat16, CUDA cores in float32),
# in 1e12 FLOP/s at boost clock: dense, so half of what a data sheet states "with sparsity", and with
# float32 accumulation, which is what torch asks for. torch multiplies float32 without TF32 unless it
# is told otherwise. A slice of a GPU (MIG) has another name, and matches nothing.
_PEAK_TFLOPS = {
    # NVIDIA A100 data sheet, June 2021
    r"NVIDIA A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe": (312.0, 19.5),
    # NVIDIA A10 and A30 data sheets, 2021
    r"NVIDIA A10": (125.0, 31.2),
    r"NVIDIA A30": (165.0, 10.3),
    # NVIDIA H100 data sheet, columns SXM and NVL; PCIe: H100 architecture white paper, table 2
    r"NVIDIA H100 80GB HBM3": (989.5, 67.0),
    r"NVIDIA H100 NVL": (835.5, 60.0),
    r"NVIDIA H100 PCIe": (756.5, 51.2),
    # NVIDIA H200 data sheet, columns SXM and NVL
    r"NVIDIA H200": (989.5, 67.0),
    r"NVIDIA H200 NVL": (835.5, 60.0),
    # NVIDIA Blackwell data sheet, HGX B200, per GPU
    r"NVIDIA B200": (2250.0, 75.0),
    # NVIDIA L4 and L40S data sheets
    r"NVIDIA L4": (121.0, 30.3),
    r"NVIDIA L40S": (362.05, 91.6),
    # NVIDIA Ada and Ampere GA102 architecture white papers, float16 with float32 accumulation
    r"NVIDIA GeForce RTX 4090": (165.2, 82.6),
    r"NVIDIA GeForce RTX 3090": (71.0, 35.6),
}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Peak dense FLOP/s of a device; None if it is not in the table (a CPU never is).

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        dtype: "float32", "float16" or "bfloat16".
    """
    for pattern, (dense, single) in _PEAK_TFLOPS.items():
        if re.fullmatch(pattern, device_name):
            tflops = dense if dtype in _DENSE else single if dtype == "float32" else None
            return None if tflops is None else tflops * 1e12
    return None


def target_tokens(prompt_tokens: int, step_gamma: Sequence[int]) -> int:
    """Tokens of one sequence that went through the target: Σ (γ + 1) over its steps, after a prefill
    of the prompt without its last token, which is the first that a step feeds."""
    return prompt_tokens - 1 + sum(gamma + 1 for gamma in step_gamma)


def draft_tokens(prompt_tokens: int, step_gamma: Sequence[int]) -> int:
    """The same through the draft: its first forward of a step feeds two tokens, so γ + 1 again.

    A sequence for which nothing was drafted counts as one that did not use the draft.
    """
    if not any(step_gamma):
        return 0
    return prompt_tokens - 1 + sum(gamma + 1 for gamma in step_gamma if gamma)


def model_flops_utilisation(
    parameters_and_tokens: Sequence[tuple[int, int]], seconds: float, peak: float | None
) -> float | None:
    """MFU = Σ 2 · parameters · tokens / seconds / peak, over the models; None without a peak.

    Attention is left out, as is usual, and so is what is computed for nobody: padding and slots that
    are empty. Drafts that were not worth verifying count: the models did process them.

    Args:
        parameters_and_tokens: for each model, its parameters and the tokens that it processed.
        seconds: that the batch took.
        peak: FLOP/s, see `peak_flops`.
    """
    if peak is None or seconds <= 0:
        return None
    return sum(2.0 * parameters * tokens for parameters, tokens in parameters_and_tokens) / (
        seconds * peak
    )
