"""What part of the wall time each phase of decoding takes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from specbench.report import stats

STEPS = ("random", "draft", "target", "verify", "commit")
PARTS = ("prompt", *STEPS, "host gap", "rest")


def phase_shares(rows: pd.DataFrame) -> dict[str, float]:
    """What part of the wall time each of `PARTS` takes, over the rows of a case.

    The steps' phases as `summary` has `verify_share`: Σ over a sequence's own steps / its wall time;
    `prompt` and `host gap` of the batches; `rest` is what remains. A phase that was not timed is NaN.

    Args:
        rows: of `read_run`, status ok.
    """
    wall_s = rows["wall_s"].sum()
    shares = dict.fromkeys(PARTS, stats.NAN)
    for name in STEPS:
        lists = rows[f"step_{name}_us"].dropna()
        spent_s = 1e-6 * sum(float(np.sum(steps)) for steps in lists)
        shares[name] = stats.ratio(spent_s, wall_s) if len(lists) else stats.NAN
    for name, column in (("prompt", "prefill_s"), ("host gap", "host_gap_s")):
        known = rows[rows[column].notna()]
        shares[name] = stats.ratio(known[column].sum(), known["batch_wall_s"].sum())
    known_parts = [shares[name] for name in PARTS if name != "rest"]
    shares["rest"] = max(0.0, 1 - float(np.nansum(known_parts)))
    return shares
