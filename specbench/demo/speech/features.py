"""Log-mel spectrograms of many waves at once, the same as WhisperFeatureExtractor's."""

from typing import Any

import torch
from transformers import WhisperFeatureExtractor

RATE = 16_000
WINDOW_SECONDS = 6
WINDOW = WINDOW_SECONDS * RATE
MELS = 80
FRAMES = WINDOW // 160


def extractor() -> Any:
    """The feature extractor of both models: 6 s of 16 kHz audio become (80, 600)."""
    return WhisperFeatureExtractor(
        feature_size=MELS,
        sampling_rate=RATE,
        hop_length=160,
        n_fft=400,
        chunk_length=WINDOW_SECONDS,
    )


class LogMel:
    """waves (B, 96000) float32 in [-1, 1] -> (B, 80, 600) float32, on the waves' device."""

    def __init__(self, device: str) -> None:
        source = extractor()
        self.size, self.hop = source.n_fft, source.hop_length
        self.filters = torch.tensor(source.mel_filters, dtype=torch.float32, device=device)
        self.window = torch.hann_window(self.size, device=device)

    def __call__(self, waves: torch.Tensor) -> torch.Tensor:
        """The spectrograms."""
        spectrum = torch.stft(waves, self.size, self.hop, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        levels = (self.filters.T @ power).clamp(min=1e-10).log10()
        floor = levels.amax((1, 2), keepdim=True) - 8.0
        return (torch.maximum(levels, floor) + 4.0) / 4.0


def masked(features: torch.Tensor, generator: torch.Generator, share: float = 1.0) -> torch.Tensor:
    """SpecAugment: in each of (B, 80, 600), two bands of up to 14 mels and two gaps of up to 200 ms.

    `share` narrows them.
    """
    bands = _bands(features, 2, 14 * share, 1, generator)
    hidden = bands | _bands(features, 2, 20 * share, 2, generator)
    return features.masked_fill(hidden, 0.0)


def _bands(
    features: torch.Tensor, count: int, widest: float, dim: int, generator: torch.Generator
) -> torch.Tensor:
    """A mask that is true in `count` random intervals of dimension `dim`, for each row."""
    batch, size = len(features), features.shape[dim]
    draws = torch.rand(2, batch, count, 1, device=features.device, generator=generator)
    width = draws[0] * widest
    start = draws[1] * (size - width)
    at = torch.arange(size, device=features.device)
    inside = ((at >= start) & (at < start + width)).any(1)
    return inside[:, :, None] if dim == 1 else inside[:, None, :]
