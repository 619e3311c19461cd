"""Constants that scenarios and the command line need before torch is loaded."""

from __future__ import annotations

MAX_GAMMA = 128
"""The most drafts of a step, in every method."""

MAX_VOCAB = 262_144
"""The largest vocabulary of a kernel."""

COLDEST = 2.0**-13
"""The smallest temperature that is not greedy: logits over much less overflow float32."""

POLICIES = ("heuristic", "bass")
"""γ policies that are not a number."""

SIGMOID_RANGE = (-1e4, 1e4)
"""α and β of the method `sigmoid`: the constants of the authors' code (2406.11016)."""
