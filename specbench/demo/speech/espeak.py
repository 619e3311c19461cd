"""Speaks text with eSpeak NG, in processes of its own: the samples depend on nothing else.

The synthesiser carries state from one utterance to the next (the phase of its flutter), so the same
text sounds a little different the second time. A fresh process for each batch of utterances makes
their samples a function of the batch alone. Run as a module it is such a process: JSON lines in,
lengths and 16-bit samples out.
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from specbench.demo.speech.voices import Voice

RATE = 16_000
BATCH = 500  # utterances of one process
Pcm = NDArray[np.int16]
Request = tuple[str, Voice]

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_SILENCE = 60  # of 32,768; what is quieter at both ends is cut off
_MARGIN = 400  # samples that stay around the cut


class Synthesiser:
    """One eSpeak NG; a process can hold one only."""

    def __init__(self) -> None:
        loader = importlib.import_module("espeakng_loader")
        self._library = ctypes.CDLL(loader.get_library_path())
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint,
            ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        path = loader.get_data_path().encode()
        self._rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _DO_NOT_EXIT)
        if self._rate <= 0:
            raise RuntimeError(f"eSpeak NG did not start with the data in {path.decode()}")
        self._chunks: list[Pcm] = []
        self._callback = _CALLBACK(self._receive)  # kept alive: the library holds no reference
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(1)  # it starts from the time of day

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: Voice) -> Pcm:
        """(N,) int16 samples at 16 kHz, silence at both ends cut off."""
        if self._library.espeak_SetVoiceByName(voice.name.encode()):
            raise ValueError(f"eSpeak NG has no voice {voice.name!r}")
        for name, number in _PARAMETERS.items():
            self._library.espeak_SetParameter(number, getattr(voice, name), 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None)
        whole = np.concatenate(self._chunks).astype(np.float32)
        return _trimmed(soxr.resample(whole, self._rate, RATE))


def _trimmed(samples: NDArray[np.float32]) -> Pcm:
    loud = np.flatnonzero(np.abs(samples) > _SILENCE)
    first, last = (int(loud[0]), int(loud[-1])) if len(loud) else (0, 0)
    kept = samples[max(0, first - _MARGIN) : last + _MARGIN]
    return np.clip(np.rint(kept), -32_768, 32_767).astype(np.int16)


def _spoken_by_one(requests: Sequence[Request]) -> list[Pcm]:
    """The utterances of one fresh process."""
    lines = "".join(json.dumps([text, asdict(voice)]) + "\n" for text, voice in requests)
    command = [sys.executable, "-m", __name__]
    ended = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the synthesiser failed: {ended.stderr.decode(errors='replace')}")
    lengths = np.frombuffer(ended.stdout[: 8 * len(requests)], np.int64)
    samples = np.frombuffer(ended.stdout[8 * len(requests) :], np.int16)
    return np.split(samples, np.cumsum(lengths)[:-1])


def speak(requests: Sequence[Request], processes: int | None = None) -> list[Pcm]:
    """(N,) int16 samples at 16 kHz for each (text, voice), in order.

    The batches' size, not the number of processes, decides the samples.
    """
    batches = [requests[i : i + BATCH] for i in range(0, len(requests), BATCH)]
    with ThreadPoolExecutor(processes or os.cpu_count() or 1) as pool:
        return [pcm for found in pool.map(_spoken_by_one, batches) for pcm in found]


def _work() -> None:
    """Reads [text, voice] lines; writes all lengths as int64, then all samples as int16."""
    synthesiser = Synthesiser()
    found = []
    for line in sys.stdin:
        text, voice = json.loads(line)
        found.append(synthesiser.speak(text, Voice(**voice)))
    sys.stdout.buffer.write(np.array([len(pcm) for pcm in found], np.int64).tobytes())
    for pcm in found:
        sys.stdout.buffer.write(pcm.tobytes())


if __name__ == "__main__":
    _work()
