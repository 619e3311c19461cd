"""The noise of a machine: how far apart runs of one and the same build are, kept beside a reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from specbench.errors import InputError
from specbench.report.atomic import atomic_file

SUFFIX, SCHEMA = ".noise.json", "specbench.noise/1"
OUTLIERS = 0.1
"""So large a part of the cases, and at least one of three or more, lifts no floor."""
MACHINE = ("device_name", "driver")
"""What must be the same for noise to be a run's: another card, or another driver, has its own."""
ABOUT = (*MACHINE, "kernel_hash", "git_sha")
"""What is kept of the runs' metadata."""


@dataclass(frozen=True)
class Noise:
    """What `specbench calibrate` found.

    Attributes:
        floors: "metric/over" → `robust_floor` of the cases' largest changes between runs of one build:
            a part of the figure, or of a metric that is a difference, that difference.
        figures: "metric/over" → of how many cases.
        runs: their ids; `about`: the machine and the build, as a file's metadata names them.
        warnings: what was left out and which floors are suspiciously high; not kept in the file.
    """

    floors: Mapping[str, float]
    figures: Mapping[str, int] = field(default_factory=dict)
    runs: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def of(self, metric: str, over: str) -> float:
        """The floor for a metric that is held against `over`; 0 if none was found."""
        return float(self.floors.get(f"{metric}/{over}", 0.0))

    def is_of(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a file is of the machine that was calibrated. What one of them alone knows differs."""
        return all(self.about.get(name) == metadata.get(name) for name in MACHINE)

    @property
    def machine(self) -> str:
        """H100, driver 580"""
        return machine_text(self.about)


def machine_text(metadata: Mapping[str, Any]) -> str:
    """A file's machine as `Noise.machine` says it."""
    device, driver = (metadata.get(name) for name in MACHINE)
    return f"{device or 'an unknown device'}{f', driver {driver}' if driver else ''}"


def robust_floor(changes: Sequence[float]) -> float:
    """What the largest changes of nine cases in ten stay within: one that went wrong lifts it for none.

    Where all cases are alike, 5 runs' largest change has its 90 % quantile where |change| of two runs has
    its 98.6 % (Student's range; normal law).

    Args:
        changes: (cases,) each the largest |change| of its figure between any two runs. Of two cases
            nobody can tell which is the outlier: there the larger one counts.
    """
    count = len(changes)
    outliers = max(1, int(OUTLIERS * count)) if count > 2 else 0
    return sorted(changes)[count - 1 - outliers]


def beside(reference: Path) -> Path:
    """Where the noise of a reference is kept: demo-….parquet → demo-….noise.json."""
    return reference.with_suffix(SUFFIX)


def save_noise(noise: Noise, reference: Path) -> Path:
    """Writes it beside the reference, atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    path = beside(reference)
    content = {
        "schema": SCHEMA,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": list(noise.runs),
        **noise.about,
        "floors": dict(noise.floors),
        "figures": dict(noise.figures),
    }
    try:
        with atomic_file(path) as temp:
            temp.write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}",
            "Copy the reference to a folder that can be written.",
        ) from error
    return path


def noise_of(references: Sequence[Path]) -> Noise | None:
    """What is kept beside the files of one side, whichever of them it is; None if nothing is.

    Raises:
        InputError: it is kept beside several and is not the same, or cannot be read.
    """
    found = {path: noise for path in references if (noise := load_noise(path)) is not None}
    kept = list(found.values())
    if any(noise != kept[0] for noise in kept):
        raise InputError(
            f"noise is kept beside several baselines: {', '.join(str(beside(p)) for p in found)}",
            "Keep one: calibrate again with --reference, and remove the others.",
        )
    return kept[0] if kept else None


def load_noise(reference: Path) -> Noise | None:
    """What is kept beside a reference; None if nothing is.

    Raises:
        InputError: the file cannot be read, or is of a newer version.
    """
    path = beside(reference)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        found = {str(name): float(value) for name, value in content["floors"].items()}
        if not all(np.isfinite(value) and value >= 0 for value in found.values()):
            raise ValueError("a floor is no number from 0 up")
        runs = [str(run) for run in content["runs"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", "Write it anew with `specbench calibrate`."
        ) from error
    about = {name: content.get(name) for name in ABOUT}
    return Noise(found, content.get("figures", {}), runs, about)
