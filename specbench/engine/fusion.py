"""Small operations beside the forwards, as few launches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, cast

import torch

Call = TypeVar("Call", bound=Callable[..., object])


@cache
def fused(call: Call) -> Call:
    """The function through torch.compile: a launch or two for a dozen operations.

    One and the same for each function, so that it is compiled once; numbers among its arguments become
    variables when they change.
    """
    return cast(Call, torch.compile(call))
