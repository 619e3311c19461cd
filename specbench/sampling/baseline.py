"""`baseline`: speculative sampling with the torch operations of Hugging Face transformers.

Leviathan et al. (2211.17192), Algorithm 1, as transformers' `_speculative_sampling` computes it: two
softmaxes over all rows, gather, ratio, uniform, first rejection, clamp, sum, divide, sample. Here
for a ragged batch, and with addressed random numbers in the place of the global generator.
"""

from __future__ import annotations

from torch import Tensor

from specbench.sampling import step as shared
from specbench.sampling.step import Step


def verify_baseline(step: Step) -> tuple[Tensor, Tensor]:
    """Token-by-token verification on full probability tensors.

    Returns:
        num_accepted (B,), next_token (B,); int64.
    """
    target_probs = shared.scaled(step.target_logits, step).softmax(-1)
    draft_probs = shared.scaled(step.draft_logits, step).softmax(-1)

    ratio = shared.at_tokens(target_probs, step) / shared.at_tokens(draft_probs, step)
    # Strict: u = 0 must not accept a token of probability 0, and a NaN ratio accepts nothing.
    accept = step.numbers.uniforms < ratio
    accepted = shared.leading(accept & shared.real_drafts(step))

    target = shared.stop_row(target_probs, accepted)
    draft = shared.where_drafted(shared.stop_row(draft_probs, accepted), accepted, step)
    residual = (target - draft).clamp(min=0)
    return accepted, shared.emit(residual / residual.sum(1, keepdim=True), target, step)
