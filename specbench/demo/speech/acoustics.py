"""What stands between a voice and the microphone: echo, a narrow band, noise, other voices, gain.

Everything is drawn anew for each batch, on the device that the waves are on.
"""

from dataclasses import dataclass

import torch

from specbench.demo.speech.features import RATE, WINDOW

_SIZE = 1 << 17  # points of the Fourier transforms: a window and its longest echo
_ECHO = 6400  # samples
EASE_DB = 30.0


@dataclass(frozen=True)
class Conditions:
    """Ranges that are drawn from; the shares are of utterances."""

    snr_db: tuple[float, float] = (4.0, 35.0)
    echo_share: float = 0.4
    band_share: float = 0.25
    longest_lead: float = 0.3  # seconds of noise before the voice, and as many behind it
    peak_db: tuple[float, float] = (-22.0, -1.0)


class Acoustics:
    """Draws conditions and applies them; the same seed on the same device gives the same waves."""

    def __init__(self, conditions: Conditions, seed: int, device: str) -> None:
        self.conditions, self.device = conditions, device
        self.ease = 0.0  # 1 makes it nearly silent around the voice
        self.generator = torch.Generator(device).manual_seed(seed)
        self._hertz = torch.fft.rfftfreq(_SIZE, 1 / RATE, device=device)

    def leads(self, lengths: torch.Tensor) -> torch.Tensor:
        """(B,) int64: where in the window each voice begins; `lengths` (B,) in samples."""
        longest = self.conditions.longest_lead * RATE
        return (self._uniform(len(lengths)) * longest).clamp(max=WINDOW - lengths).long()

    def __call__(self, waves: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """waves (B, 96000) float32, silent outside the voice, which ends at `ends` (B,) samples."""
        rows, chosen = len(waves), self.conditions
        tail = (self._uniform(rows) * chosen.longest_lead * RATE).long()
        heard = torch.arange(WINDOW, device=self.device) < (ends + tail)[:, None]
        voices, noise = self._filtered(waves) * heard, self._noise(waves) * heard
        powers = [part.square().sum(1, keepdim=True) for part in (voices, noise)]
        snr_db = self._range(rows, chosen.snr_db) + EASE_DB * self.ease
        scale = (powers[0] / powers[1].clamp(min=1e-12) / 10 ** (snr_db / 10)).sqrt()
        mixed = voices + scale * noise
        peak = 10 ** (self._range(rows, chosen.peak_db) / 20)
        return mixed * peak / mixed.abs().amax(1, keepdim=True).clamp(min=1e-6)

    def _uniform(self, rows: int) -> torch.Tensor:
        return torch.rand(rows, device=self.device, generator=self.generator)

    def _range(self, rows: int, bounds: tuple[float, float]) -> torch.Tensor:
        """(B, 1), uniform between the bounds."""
        return (bounds[0] + (bounds[1] - bounds[0]) * self._uniform(rows))[:, None]

    def _filtered(self, waves: torch.Tensor) -> torch.Tensor:
        """Some with an echo, some through a narrow band."""
        response = self._echo(len(waves)) * self._band(len(waves))
        spectrum = torch.fft.rfft(waves, _SIZE) * response
        filtered: torch.Tensor = torch.fft.irfft(spectrum, _SIZE)
        return filtered[:, :WINDOW]

    def _echo(self, rows: int) -> torch.Tensor:
        """(B, F): the spectrum of one click and a decaying hiss, up to 0.4 s long."""
        seconds = torch.arange(_ECHO, device=self.device) / RATE
        decay = torch.exp(-6.9 * seconds / self._range(rows, (0.1, 0.4)))
        hiss = torch.randn(rows, _ECHO, device=self.device, generator=self.generator) * decay
        hiss = hiss / hiss.square().sum(1, keepdim=True).sqrt()
        wet = self._range(rows, (0.1, 0.6))
        wet = wet * (self._uniform(rows) < self.conditions.echo_share)[:, None]
        spectrum: torch.Tensor = torch.fft.rfft(hiss, _SIZE)
        return 1 + wet * spectrum

    def _band(self, rows: int) -> torch.Tensor:
        """(B, F): gains that fall off below and above a voice's band, 1 where there is none."""
        low, high = self._range(rows, (60, 350)), self._range(rows, (2800, 7000))
        gain = 1 / ((1 + (low / self._hertz.clamp(min=1)) ** 8) * (1 + (self._hertz / high) ** 12))
        narrow = (self._uniform(rows) < self.conditions.band_share)[:, None]
        return torch.where(narrow, gain.sqrt(), 1.0)

    def _noise(self, waves: torch.Tensor) -> torch.Tensor:
        """(B, N) between white and brown, mixed with a babble of three other voices of the batch."""
        rows = len(waves)
        white = torch.randn(waves.shape, device=self.device, generator=self.generator)
        slope = self._hertz.clamp(min=50.0) ** -self._range(rows, (0.0, 0.9))
        hiss = torch.fft.irfft(torch.fft.rfft(white, _SIZE) * slope, _SIZE)[:, :WINDOW]
        shifts = [1 + int(s * WINDOW) for s in (0.13, 0.37, 0.71)]
        babble = sum(
            (waves.roll(number + 1, 0).roll(shift, 1) for number, shift in enumerate(shifts)),
            start=torch.zeros_like(waves),
        )
        share = self._range(rows, (-0.5, 1.0)).clamp(min=0.0)  # a third hears no babble
        return _levelled(hiss) * (1 - share).sqrt() + _levelled(babble) * share.sqrt()


def _levelled(waves: torch.Tensor) -> torch.Tensor:
    """Each row at unit power."""
    return waves / waves.square().mean(1, keepdim=True).clamp(min=1e-12).sqrt()
