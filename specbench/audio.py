"""Recorded speech: reading it from a file or from encoded bytes, and refusing what is not speech.

Models hear one thing only: one channel at 16 kHz. Whatever else a file holds is brought to that here.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from specbench.errors import InputError

RATE = 16_000
"""Samples a second of everything that `Clip.load` returns."""

SUFFIXES = frozenset({".flac", ".wav", ".mp3", ".ogg"})
"""What counts as audio in a folder, in lower case."""

LOUDEST = 2.0
"""Lossy codecs and resampling overshoot full scale by some per cent; integers stored as floats, by
thousands."""

_OPEN_ENDED = {0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFF000, 0xFFFFFFFF}
"""Lengths that a program writes into a WAV header when it cannot go back to mend it."""


@dataclass(frozen=True)
class Clip:
    """One utterance, decoded when it is asked for.

    Attributes:
        name: what messages call it.
        source: the path of an audio file, or the bytes of one: WAV, FLAC, MP3 or OGG.
    """

    name: str
    source: Path | bytes = field(repr=False)

    @cached_property
    def seconds(self) -> float:
        """Its length, from the header alone.

        Raises:
            InputError: as `load`, as far as the header tells.
        """
        with self._reading():
            return float(self._header.frames / self._header.samplerate)

    def load(self) -> npt.NDArray[np.float32]:
        """The sound: float32 (samples,), one channel at 16 kHz, in [-1, 1].

        Channels are averaged; other rates are resampled.

        Raises:
            InputError: the file is missing, empty, cut off, damaged or in an unknown format; it has no
                samples, or some that are not finite or far beyond full scale.
        """
        with self._reading():
            frames, rate = self._header.frames, self._header.samplerate
            channels = self._decode()
        if len(channels) < frames:
            raise self._cut_off(f"it ends after {len(channels):,} of {frames:,} samples")
        self._check_range(channels)
        sound: npt.NDArray[np.float32] = channels.mean(axis=1)
        if rate != RATE:
            sound = _resample(sound, rate)
        if not len(sound):
            raise self._silent()
        return sound.clip(-1.0, 1.0)

    def _decode(self) -> npt.NDArray[np.float32]:
        """(samples, channels), at the file's own rate."""
        import soundfile

        channels: npt.NDArray[np.float32]
        channels, _ = soundfile.read(self._open(), dtype="float32", always_2d=True)
        return channels

    @cached_property
    def _header(self) -> Any:
        """soundfile's account of the file; checks what can be checked without decoding."""
        import soundfile

        if not self._size():
            raise InputError(f"{self.name} is empty: the file has 0 bytes", "Fetch it again.")
        header = soundfile.info(self._open())
        if header.frames <= 0:
            raise self._silent()
        if header.format in ("WAV", "WAVEX"):
            with self._stream() as stream:
                missing = missing_bytes(stream, self._size())
            if missing:
                # libsndfile shortens the sound in silence; the transcript would still be whole.
                raise self._cut_off(f"its header promises {missing:,} bytes more")
        return header

    def _open(self) -> str | io.BytesIO:
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else str(self.source)

    def _stream(self) -> IO[bytes]:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return self.source.open("rb")

    def _size(self) -> int:
        if isinstance(self.source, bytes):
            return len(self.source)
        return self.source.stat().st_size

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns the complaints of the system and of libsndfile into sentences."""
        import soundfile

        try:
            yield
        except FileNotFoundError:
            raise InputError(f"there is no audio file {self.name}", "Check the path.") from None
        except OSError as error:
            raise InputError(
                f"{self.name} cannot be read: {error.strerror or error}", "Check the path."
            ) from None
        except (soundfile.LibsndfileError, TypeError) as error:
            # TypeError: a name that ends in .raw, which soundfile takes for headerless samples.
            reason = getattr(error, "error_string", "").strip(" .") or "damaged, or cut off"
            raise InputError(
                f"{self.name} cannot be decoded: {reason}",
                "Expected WAV, FLAC, MP3 or OGG; if it is one of them, fetch it again.",
            ) from None

    def _check_range(self, channels: npt.NDArray[np.float32]) -> None:
        peak = float(np.abs(channels).max())  # NaN if any sample is
        if not math.isfinite(peak):
            raise InputError(
                f"{self.name} has samples that are not finite", "Export it again as 16-bit audio."
            )
        if peak > LOUDEST:
            raise InputError(
                f"{self.name} has samples up to {peak:,.0f}, full scale is 1",
                "Divide floating-point samples by their full scale, or export it as 16-bit audio.",
            )

    def _silent(self) -> InputError:
        return InputError(f"{self.name} has no samples", "Remove it, or record it again.")

    def _cut_off(self, reason: str) -> InputError:
        return InputError(f"{self.name} is cut off: {reason}", "Fetch it again.")


def check_length(clips: Iterable[Clip], seconds: float) -> None:
    """Makes sure that every clip fits into a window of that many seconds; nothing is ever cut.

    Raises:
        InputError: one does not; the first is named.
    """
    for clip in clips:
        # A resampler may round up by one sample.
        if clip.seconds > seconds + 1 / RATE:
            raise InputError(
                f"{clip.name} is {clip.seconds:.2f} s long, the model hears {seconds:g} s at once",
                f"Split it at pauses into pieces of at most {seconds:g} s, each with its transcript.",
            )


def missing_bytes(stream: IO[bytes], size: int) -> int:
    """How many bytes of samples a WAV header promises beyond the end of the file.

    Args:
        stream: at its beginning.
        size: of the file, in bytes.
    """
    order = ">" if stream.read(12)[:4] == b"RIFX" else "<"
    while len(head := stream.read(8)) == 8:
        chunk, length = struct.unpack(f"{order}4sI", head)
        if chunk == b"data":
            open_ended = length in _OPEN_ENDED
            return 0 if open_ended else max(0, stream.tell() + length - size)
        stream.seek(length + length % 2, io.SEEK_CUR)
    return 0


def _resample(sound: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    import soxr

    resampled: npt.NDArray[np.float32] = soxr.resample(sound, rate, RATE, quality="HQ")
    return resampled
