"""Where and how a file was made, from its metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specbench.report.reader import Run

NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Environment:
    """Of one file.

    Attributes:
        facts: name and value.
        texts: name and text of what is long.
    """

    title: str
    facts: list[tuple[str, str]]
    texts: list[tuple[str, str]]


def environment(run: Run) -> Environment:
    """What a file says of itself; what it does not know is said to be unknown."""
    about = run.metadata
    facts = [(name, _shown(about.get(key), show)) for name, key, show in _FACTS]
    facts.insert(1, ("run", f"{run.run_id}, {len(run.rows):,} rows"))
    if not about.get("complete", True):
        facts.insert(2, ("complete", "no: interrupted"))
    texts = [(name, about[key]) for name, key in _TEXTS if isinstance(about.get(key), str)]
    if isinstance(about.get("packages"), dict):
        texts.append(("packages", "\n".join(f"{k} {v}" for k, v in about["packages"].items())))
    return Environment(run.path.name, facts, texts)


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    """A file changed by another program may hold anything."""
    if value is None:
        return NOT_KNOWN
    try:
        return show(value)
    except (TypeError, ValueError, AttributeError, KeyError):
        return str(value)


def _pairs(value: dict[str, Any]) -> str:
    return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)


def _clocks(value: dict[str, Any]) -> str:
    """sm_max_mhz 1980 -> sm max 1980 MHz"""
    shown = [
        f"{name.removesuffix('_mhz').replace('_', ' ')} {mhz} MHz" for name, mhz in value.items()
    ]
    return ", ".join(shown)


_FACTS: list[tuple[str, str, Callable[[Any], str]]] = [
    ("made", "created_utc", str),
    ("command", "argv", lambda argv: " ".join(argv)),
    ("device", "device_name", str),
    ("device memory", "device_memory_bytes", lambda size: f"{size / 1e9:.1f} GB"),
    ("driver", "driver", str),
    ("CUDA", "cuda", _pairs),
    ("clocks", "clocks", _clocks),
    ("host CPU", "cpu", lambda cpu: f"{cpu['model']}, {cpu['threads']} threads"),
    ("platform", "platform", str),
    ("Python", "python", str),
    ("git", "git_sha", str),
    ("uncommitted changes", "git_dirty", lambda dirty: "yes" if dirty else "no"),
    ("kernel source", "kernel_hash", str),
    ("scenario's sha256", "scenario_sha256", str),
    ("schema", "schema_version", str),
]
_TEXTS = [("scenario", "scenario"), ("scenario with all its defaults", "resolved_scenario")]
