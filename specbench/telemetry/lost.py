"""Whether an error means that the GPU is gone, or this process's way to it.

Some CUDA errors stick: every later call of the process fails with the same one, until it ends. Others, a
lack of memory above all, end with the call.
"""

from __future__ import annotations

CODES = {
    46, 100,  # the device is unavailable, there is none any more
    201, 709,  # the context is invalid, was destroyed
    214, 220,  # ECC and NVLink errors that could not be corrected
    700, 702, 710, *range(714, 720),  # a kernel went wrong: illegal address, timeout, assertion, ...
    911, 999,  # an external device, unknown
}  # fmt: skip
"""`cudaError_t` and `CUresult` number them alike. Of most of these CUDA's documentation says that the
process must be relaunched."""

SAID_BY = ("cuda error", "cuda driver error", "triton error [cuda]")
"""So the messages of errors without a code begin."""

WORDS = (
    "illegal memory access", "launch timed out", "device-side assert", "hardware stack error",
    "illegal instruction", "misaligned address", "address space", "invalid program counter",
    "unspecified launch failure", "launch failed", "uncorrectable", "unknown error", "is lost",
    "fallen off the bus", "no cuda-capable device", "busy or unavailable", "context is destroyed",
)  # fmt: skip
"""Of the messages where an error bears no code, as torch's and Triton's own."""


def lost_reason(error: BaseException | None) -> str | None:
    """The first line of what was lost; None if the GPU works on.

    Args:
        error: also one that was raised because of, or while, such an error was handled.
    """
    while error is not None:
        if _sticks(error):
            return (str(error) or type(error).__name__).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None


def _sticks(error: BaseException) -> bool:
    # torch.AcceleratorError has error_code, CuPy's CUDARuntimeError and CUDADriverError have status
    codes = [getattr(error, name, None) for name in ("error_code", "status")]
    if known := [code for code in codes if isinstance(code, int)]:
        return any(code in CODES for code in known)
    text = str(error).lower()
    # A compiler's message may speak of CUDA and of address spaces too; the method alone is broken then.
    is_drivers = isinstance(error, RuntimeError) and text.startswith(SAID_BY)
    return is_drivers and any(word in text for word in WORDS)
