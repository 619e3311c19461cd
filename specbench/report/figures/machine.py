"""The GPU while it decoded: utilisation, power, clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Theme

MACHINE = "gpu"
POINTS = 240
"""At most so many of a run: more are averaged, and their extremes are the band."""
_PANELS = {
    "nvml_gpu_util_pct": "utilisation,\n%", "nvml_power_w": "power,\nW",
    "nvml_sm_clock_mhz": "SM clock,\nMHz",
}  # fmt: skip
_BATCH = ["case_id", "repeat", "batch_index"]

Curve = tuple[NDArray[Any], NDArray[Any]]


def machine_charts(material: Material) -> list[Chart]:
    """One chart for each run in which NVML was sampled."""
    curves = [(source, _curves(source.within.run.rows)) for source in material.sources]
    return [_chart(source, found) for source, found in curves if found]


def _curves(rows: pd.DataFrame) -> dict[str, Curve]:
    """Column → times and values of all samples; a batch's are in each of its rows, and count once."""
    batches = rows[rows["nvml_t_s"].notna() & rows["batch_wall_s"].notna()]
    batches = batches.drop_duplicates(_BATCH)
    # Samples are taken while graphs are captured too.
    length_s = batches["batch_wall_s"] + batches["capture_s"].fillna(0)
    start_s = length_s.cumsum() - length_s
    found = {}
    for name in _PANELS:
        times, values = [], []
        for start, t_s, sample in zip(start_s, batches["nvml_t_s"], batches[name], strict=True):
            if sample is not None and len(sample) == len(t_s):
                times.append(start + np.asarray(t_s, float))
                values.append(np.asarray(sample, float))
        if sum(map(len, values)) > 1:
            found[name] = np.concatenate(times), np.concatenate(values)
    return found


def _chart(source: Source, curves: dict[str, Curve]) -> Chart:
    def paint(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, curve), place in zip(panels, curves.items(), (3, 2, 0), strict=False):
            time_s, low, mean, high = _thinned(*curve)
            colour = theme.series[place]
            axes.fill_between(time_s, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(time_s, mean, color=colour, linewidth=1.1)
            axes.set_ylabel(_PANELS[name])
            axes.set_ylim(0, max(1.05 * float(high.max()), 1))
        panels[-1].set_xlabel("time in batches, s")
        figure.align_ylabels()

    caption = (
        "NVML's utilisation says that a kernel was running, not that the GPU was full. What lies between "
        f"batches is cut out. Of more than {POINTS} samples: means, and bands of their extremes."
    )
    subject = source.within.run.path.name
    height = 0.7 + 0.95 * len(curves)
    return Chart(MACHINE, subject, "The GPU over time", caption, paint, height_in=height)


def _thinned(time_s: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """(points,) each: time, least, mean, greatest."""
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    cuts = [(time_s[part].mean(), values[part]) for part in parts]
    each = [(at, v.min(), v.mean(), v.max()) for at, v in cuts]
    return tuple(np.array(each).T)
