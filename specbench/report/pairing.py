"""What runs have in common, case by case: the same samples, decoded with the same random numbers.

A case's times belong to batches, since the sequences of a batch share them; its counts and its quality
belong to sequences. Both are known by what is in them, so that two runs are paired by sample,
completion, repeat and seed, whatever the order of their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from specbench.report.schema import CASE_KEY
from specbench.report.summary import GROUP_KEY, keys_of

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.uint64]
CaseKey: TypeAlias = tuple[Any, ...]
"""Values of `schema.CASE_KEY`, null as None."""

FOREIGN = "foreign_processes"
"""Column of rows, or key of a file's metadata, that names other processes on the GPU; files without it
do not say."""


class _Table:
    """Columns of one length."""

    def take(self, which: Any) -> Self:
        """Those rows, by number or mask."""
        columns = {field.name: getattr(self, field.name)[which] for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(**columns)


@dataclass(frozen=True)
class Batches(_Table):
    """The batches of a case, (batches,) each. `item` is a code of the sequences in it, without the
    repeat; `verify_us` is the median over a sequence's steps that verified something, the mean over its
    sequences, NaN if there is none."""

    item: Codes
    repeat: NDArray[np.int64]
    tokens: Floats
    wall_s: Floats
    verify_us: Floats
    kernel_us: Floats

    @property
    def tokens_per_s(self) -> Floats:
        """Of each batch."""
        return self.tokens / self.wall_s


@dataclass(frozen=True)
class Sequences(_Table):
    """The sequences of a case, (sequences,) each. `sample` and `item` are codes, `item` of the sample,
    its completion and the seed."""

    item: Codes
    sample: Codes
    repeat: NDArray[np.int64]
    new_tokens: Floats
    verify_steps: Floats
    drafted: Floats
    accepted: Floats
    value: Floats
    weight: Floats


@dataclass(frozen=True)
class Case:
    """One case of one run.

    Attributes:
        key: column of `schema.CASE_KEY` → value, None for null.
        failed: sequences that failed; `error`: the first one's reason.
        implementations, devices, metrics: what the rows name.
        throttled: reasons for low clocks; `foreign`: other processes on the GPU.
        sm_clock_mhz: the mean, since at its power limit a GPU jumps between clocks that are 15 % apart,
            of which a median sees one; NaN if the file does not say.
    """

    key: dict[str, Any]
    batches: Batches
    sequences: Sequences
    failed: int
    error: str | None
    implementations: frozenset[str]
    devices: frozenset[str]
    metrics: frozenset[str]
    throttled: frozenset[str]
    foreign: frozenset[str]
    sm_clock_mhz: float

    @property
    def group(self) -> tuple[Any, ...]:
        """Values of `summary.GROUP_KEY`."""
        return tuple(self.key[name] for name in GROUP_KEY)


def measured(rows: pd.DataFrame) -> dict[CaseKey, Case]:
    """The cases of a run with a sequence that was tried, in order of appearance."""
    rows = rows[rows["status"] != "skipped"]
    if rows.empty:
        return {}
    number = rows.groupby(CASE_KEY, dropna=False, sort=False).ngroup().to_numpy()
    firsts = np.unique(number, return_index=True)[1]
    keys = keys_of(rows.iloc[firsts], CASE_KEY)
    fine = (rows["status"] == "ok").to_numpy()
    sequences = _sequences(rows[fine])
    batches, case_of_batch = _batches(rows[fine], number[fine], sequences)
    by_row, by_sequence, by_batch = (
        _split(of, len(keys)) for of in (number, number[fine], case_of_batch)
    )
    facts = {name: rows[name].to_numpy(object) for name in _FACTS if name in rows}
    return {
        key: Case(
            dict(zip(CASE_KEY, map(_plain, key), strict=True)),
            batches.take(by_batch[i]),
            sequences.take(by_sequence[i]),
            **_facts({name: values[by_row[i]] for name, values in facts.items()}),
        )
        for i, key in enumerate(keys)
    }


_FACTS = [
    *("status", "error", "implementation", "device_name", "metric", "throttle_reasons", FOREIGN),
    "nvml_sm_clock_mhz",
]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _split(codes: NDArray[Any], count: int) -> list[NDArray[np.intp]]:
    """The positions of each code from 0 to `count` - 1."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(1, count)))


def _facts(rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The fields of `Case` that are no tables."""
    fine, failed = rows["status"] == "ok", rows["status"] == "failed"
    errors = [str(error) for error in rows["error"][failed] if error is not None]
    clocks = [c for c in rows["nvml_sm_clock_mhz"][fine] if c is not None and len(c)]
    return {
        "failed": int(failed.sum()),
        "error": errors[0] if errors else None,
        "implementations": _named(rows["implementation"][fine]),
        "devices": _named(rows["device_name"][fine]),
        "metrics": _named(rows["metric"][fine]),
        "throttled": _listed(rows["throttle_reasons"][fine]),
        "foreign": _listed(rows[FOREIGN][fine]) if FOREIGN in rows else frozenset(),
        "sm_clock_mhz": float(np.mean(np.concatenate(clocks))) if clocks else np.nan,
    }


def _named(values: NDArray[Any]) -> frozenset[str]:
    return frozenset(str(value) for value in pd.unique(values) if not pd.isna(value))


def _listed(lists: NDArray[Any]) -> frozenset[str]:
    return frozenset(str(one) for found in lists if found is not None for one in found)


def _number(rows: pd.DataFrame, name: str) -> Floats:
    return rows[name].to_numpy(float, na_value=np.nan)


def _sequences(rows: pd.DataFrame) -> Sequences:
    sample = pd.util.hash_array(rows["sample_id"].astype(str).to_numpy(object), categorize=True)
    luck = [
        pd.util.hash_array(rows[name].fillna(0).to_numpy(np.int64))
        for name in ("completion", "seed")
    ]
    # odd factors, so that no two of the parts can be exchanged
    item = sample + luck[0] * np.uint64(3) + luck[1] * np.uint64(5)
    counts = ("new_tokens", "verify_steps", "drafted", "accepted", "metric_value", "metric_weight")
    return Sequences(
        item, sample, rows["repeat"].fillna(0).to_numpy(np.int64),
        *(_number(rows, name) for name in counts),
    )  # fmt: skip


def _batches(
    rows: pd.DataFrame, case: NDArray[Any], sequences: Sequences
) -> tuple[Batches, NDArray[Any]]:
    """All batches, and the case of each. A row without a batch index is a batch of its own; a batch that
    does not say how long it took lasts as long as its longest sequence."""
    index = _number(rows, "batch_index")
    index = np.where(np.isnan(index), -1.0 - np.arange(len(index)), index)
    where = {"case": case, "repeat": sequences.repeat, "index": index, "id": rows["case_id"]}
    of = pd.DataFrame(where).groupby(list(where), dropna=False, sort=False).ngroup().to_numpy()
    count = int(of.max(initial=-1)) + 1
    whole = _number(rows, "batch_wall_s")
    wall_s, item = np.zeros(count), np.zeros(count, np.uint64)
    np.maximum.at(wall_s, of, np.where(np.isnan(whole), _number(rows, "wall_s"), whole))
    np.add.at(item, of, sequences.item)
    first = np.unique(of, return_index=True)[1]
    tokens = np.bincount(of, np.nan_to_num(sequences.new_tokens), minlength=count).astype(float)
    verify_us = _mean(of, step_medians(rows["step_verify_us"].to_numpy(object)), count)
    kernel_us = _mean(of, _number(rows, "verify_kernel_us"), count)
    return Batches(item, sequences.repeat[first], tokens, wall_s, verify_us, kernel_us), case[first]


def _mean(of: NDArray[Any], values: Floats, count: int) -> Floats:
    """Of each code's values, those that are known."""
    known = ~np.isnan(values)
    total = np.bincount(of[known], values[known], minlength=count).astype(float)
    number = np.bincount(of[known], minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def step_medians(lists: NDArray[Any]) -> Floats:
    """The median of each list's values over 0, NaN if there is none: a step without drafts verifies
    nothing and has 0."""
    lengths = np.array([0 if one is None else len(one) for one in lists])
    found = np.full(len(lists), np.nan)
    if not lengths.sum():
        return found
    values = np.concatenate([one for one in lists if one is not None]).astype(float)
    row = np.repeat(np.arange(len(lists)), lengths)
    row, values = row[values > 0], values[values > 0]
    values = values[np.lexsort((values, row))]
    counts = np.bincount(row, minlength=len(lists))
    start = np.cumsum(counts) - counts
    some = counts > 0
    low, high = (values[(start + half)[some]] for half in ((counts - 1) // 2, counts // 2))
    found[some] = (low + high) / 2
    return found


def pooled(cases: Sequence[Case]) -> Batches:
    """The batches of several cases as if of one: tokens and times of the same samples are added up."""
    parts = [case.batches for case in cases]
    columns = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Batches)}
    item, repeat = columns["item"], columns["repeat"]
    unit = unit_of(item, repeat)
    first, of = np.unique(unit, return_index=True, return_inverse=True)[1:]
    tokens, wall_s = (np.bincount(of, columns[name]).astype(float) for name in ("tokens", "wall_s"))
    means = (_mean(of, columns[name], len(first)) for name in ("verify_us", "kernel_us"))
    return Batches(item[first], repeat[first], tokens, wall_s, *means)


def as_one(cases: Sequence[Case], method: str) -> Case:
    """Plain decoding under several methods' names, which is the same decoding, as one case: batches of
    the same sequences are added up, sequences all kept.

    Args:
        method: what it is called; a single case stays as it is.
    """
    if len(cases) == 1:
        return cases[0]
    own = {"sigmoid_alpha": None, "sigmoid_beta": None}
    cases = sorted(cases, key=lambda case: str(tuple(case.key.values())))
    clocks = [case.sm_clock_mhz for case in cases if not np.isnan(case.sm_clock_mhz)]
    names = ("implementations", "devices", "metrics", "throttled", "foreign")
    return Case(
        cases[0].key | own | {"method": method},
        pooled(cases),
        _side_by_side(cases),
        sum(case.failed for case in cases),
        next((case.error for case in cases if case.error), None),
        **{name: frozenset().union(*(getattr(case, name) for case in cases)) for name in names},
        sm_clock_mhz=float(np.mean(clocks)) if clocks else np.nan,
    )


def _side_by_side(cases: Sequence[Case]) -> Sequences:
    """All sequences; a sample's under one method's name is another item than under the next one's."""
    names = [str((c.key["method"], c.key["sigmoid_alpha"], c.key["sigmoid_beta"])) for c in cases]
    codes = pd.util.hash_array(np.array(names, object)) * np.uint64(7)
    parts = [
        replace(case.sequences, item=case.sequences.item + code)
        for case, code in zip(cases, codes, strict=True)
    ]
    columns = (field.name for field in fields(Sequences))
    return Sequences(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def together(cases: Sequence[Case]) -> Sequences:
    """The sequences of several cases that say the same, as plain decoding under any method's name does:
    each once."""
    parts = [case.sequences for case in cases]
    names = [field.name for field in fields(Sequences)]
    every = Sequences(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    return every.take(np.unique(unit_of(every.item, every.repeat), return_index=True)[1])


def unit_of(item: Codes, repeat: NDArray[np.int64]) -> Codes:
    """A code of an item in a repeat."""
    return item * np.uint64(0x9E3779B97F4A7C15) + pd.util.hash_array(repeat)


def aligned(parts: Sequence[Batches]) -> list[Batches]:
    """What all have in common, each column as (repeats, items) with the items in the same order.

    A run that was cut off has a repeat with fewer items: one with less than half of them is left out,
    and then every item that some repeat lacks.
    """
    units = [unit_of(part.item, part.repeat) for part in parts]
    common = units[0]
    for unit in units[1:]:
        common = np.intersect1d(common, unit)
    here = _places(units[0], np.unique(common))
    item, repeat = parts[0].item[here], parts[0].repeat[here]
    repeats, counts = np.unique(repeat, return_counts=True)
    whole = np.isin(repeat, repeats[2 * counts >= counts.max(initial=0)])
    items, counts = np.unique(item[whole], return_counts=True)
    repeats = np.unique(repeat[whole])
    items = items[counts == len(repeats)]
    wanted = unit_of(np.tile(items, len(repeats)), np.repeat(repeats, len(items)))
    shape = len(repeats), len(items)
    return [
        part.take(_places(unit, wanted).reshape(shape))
        for part, unit in zip(parts, units, strict=True)
    ]


def _places(unit: Codes, wanted: Codes) -> NDArray[np.intp]:
    order = np.argsort(unit)
    return order[np.searchsorted(unit[order], wanted)]


def same_sequences(new: Sequences, old: Sequences) -> tuple[Sequences, Sequences]:
    """The sequences that are in both, in the same order."""
    units = [unit_of(one.item, one.repeat) for one in (new, old)]
    common = np.intersect1d(units[0], units[1])
    return new.take(_places(units[0], common)), old.take(_places(units[1], common))
