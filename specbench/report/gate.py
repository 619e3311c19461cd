"""The gate: runs against a reference, figure by figure, and what that decides.

Ratios within a run gate by default, since they do not drift with the machine: a method over `baseline`
at the same γ, the speed-up over γ = 0. Both runs' ratios are held against each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from specbench.errors import ExitCode, InputError, NotComparableError
from specbench.report.compare import compare_runs
from specbench.report.findings import Rules, Side, findings
from specbench.report.judge import judge
from specbench.report.lost import cases_alone, failure_notes, lost_cases
from specbench.report.micro_findings import micro_findings
from specbench.report.noise import Noise, machine_text
from specbench.report.pairing import same_sequences
from specbench.report.reader import Run
from specbench.report.verdict import INCONCLUSIVE, Finding, Verdict, in_words

PASSED, FAILED, UNDECIDED = "passed", "failed", "inconclusive"


@dataclass(frozen=True)
class Gate:
    """What a comparison with a reference found.

    Attributes:
        references: one, or of files of `specbench micro` several that are one reference.
        verdicts: worst first.
        alone: cases of new runs that the reference lacks: columns of their key, `label`, `where`,
            `run_id`, `error`.
        notes: what else to know.
        strict: whether an inconclusive figure fails.
    """

    references: list[Run]
    runs: list[Run]
    verdicts: list[Verdict]
    gates: frozenset[str]
    alone: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    strict: bool = False

    @property
    def gating(self) -> list[Verdict]:
        """Those that count."""
        return [verdict for verdict in self.verdicts if verdict.finding.gates]

    @property
    def decision(self) -> str:
        """`PASSED`, `FAILED`, or `UNDECIDED` if nothing fails and some figure is inconclusive."""
        if any(verdict.fails for verdict in self.verdicts):
            return FAILED
        unclear = any(verdict.verdict == INCONCLUSIVE for verdict in self.gating)
        return UNDECIDED if unclear or not self.gating else PASSED

    @property
    def exit_code(self) -> ExitCode:
        """Of the command."""
        if self.decision == FAILED:
            return ExitCode.REGRESSION
        return ExitCode.INCONCLUSIVE if self.strict and self.decision == UNDECIDED else ExitCode.OK

    @property
    def sentence(self) -> str:
        """What the gate decided, and on what."""
        counts = Counter(verdict.verdict for verdict in self.gating)
        listed = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        worst = next((verdict for verdict in self.verdicts if verdict.fails), None)
        of = f"{len(self.gating)} figures that gate: {listed}" if self.gating else "nothing gates"
        if worst is not None:
            found = worst.finding
            where = f"{found.label} at γ = {found.key['gamma']}"
            what = "; ".join(worst.why) if found.failed else f"{found.figure} {in_words(worst)}"
            return f"gate failed: {where}: {what} ({of})"
        if self.decision == PASSED:
            return f"gate passed ({of})"
        what = "fails under --strict" if self.strict else "does not fail without --strict"
        return f"gate inconclusive, which {what} ({of})"


def gate_runs(reference: Run, runs: Sequence[Run], rules: Rules, strict: bool = False) -> Gate:
    """Each run against the reference.

    Raises:
        InputError: one of them is the reference itself, or given twice.
        NotComparableError: no run has a figure in common with the reference.
    """
    _refuse_twins([reference], runs)
    old = Side(reference)
    found: list[Finding] = []
    alone: list[dict[str, Any]] = []
    notes: list[str] = []
    matched = False
    for run in runs:
        side = Side(run)
        own, told = _calibrated_here(rules, [run])
        here = findings([side, old], own)
        lost = lost_cases(side, old, rules)
        matched = matched or any(one.estimate or one.failed for one in (*here, *lost))
        found += [*here, *lost]
        alone += cases_alone(side, old)
        notes += _notes(side, old) + failure_notes(side, old) + told
    if not matched:
        raise NotComparableError(
            f"{_paths([*runs, reference])} have no figure in common", _why_none([reference, *runs])
        )
    notes += _noise_note(rules.noise, judged := judge(found))
    return Gate([reference], list(runs), judged, rules.gates, alone, notes, strict)


def gate_micro(
    references: Sequence[Run], runs: Sequence[Run], rules: Rules, strict: bool = False
) -> Gate:
    """Files of `specbench micro`: all of one build together are held against the reference's.

    Raises:
        InputError: one of them is given twice, or on both sides.
        NotComparableError: they have no case in common.
    """
    _refuse_twins(references, runs)
    rules, told = _calibrated_here(rules, runs)
    found = micro_findings(runs, references, rules)
    if not any(finding.estimate or finding.failed for finding in found):
        raise NotComparableError(
            f"{_paths([*runs, *references])} have no figure in common",
            "A case is a method with B, γ, V, dtype, noise and L2: measure the same preset, with the "
            "method baseline in it.",
        )
    judged = judge(found)
    notes = _differences([*references, *runs], "files") + told + _noise_note(rules.noise, judged)
    return Gate(list(references), list(runs), judged, rules.gates, [], notes, strict)


def _refuse_twins(references: Sequence[Run], runs: Sequence[Run]) -> None:
    known = {reference.run_id: reference for reference in references}
    if twin := next((run for run in runs if run.run_id in known), None):
        raise InputError(
            f"{twin.path} is the same run as the baseline {known[twin.run_id].path}",
            "Give the baseline with --baseline alone, and another run as FILE.",
        )
    _refuse_repeated(references)
    _refuse_repeated(runs)


def _refuse_repeated(runs: Sequence[Run]) -> None:
    """A run that counts twice looks like evidence that there is not."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.run_id in first:
            raise InputError(
                f"run {run.run_id} is given twice: {first[run.run_id].path} and {run.path}",
                "Give each file once; a pattern may name one that is given by itself too.",
            )
        first[run.run_id] = run


def methods_against_baseline(run: Run) -> list[Verdict]:
    """Verdicts on the methods of one run, each figure for itself, by γ as the run has them."""
    found = findings([Side(run)], Rules())
    order = {id(finding): place for place, finding in enumerate(found)}
    return sorted(judge(found), key=lambda verdict: order[id(verdict.finding)])


def _why_none(runs: Sequence[Run]) -> str:
    failure = compare_runs(runs).failure
    if failure is not None and failure.hint:
        return failure.hint
    return (
        "Give runs of the same scenario, with the same seed, samples and repeats, and with the method "
        "baseline or γ = 0 in it; --absolute holds the times themselves against each other."
    )


def _paths(runs: Sequence[Run]) -> str:
    return " and ".join(str(run.path) for run in runs)


def _notes(new: Side, old: Side) -> list[str]:
    """Sequences that one run has alone, and machines that differ."""
    lost, of = 0, 0
    for key, case in new.cases.items():
        if key in old.cases:
            both = same_sequences(case.sequences, old.cases[key].sequences)[0]
            larger = max(len(case.sequences.item), len(old.cases[key].sequences.item))
            lost, of = lost + larger - len(both.item), of + larger
    found = [f"{lost} of {of} sequences are in one of the runs alone: left out"] if lost else []
    return found + _differences([old.run, new.run], "runs")


def _differences(runs: Sequence[Run], what: str) -> list[str]:
    """In what the machines differ; the reference's comes first."""
    found = []
    for name in ("device_name", "driver"):
        facts = list(dict.fromkeys(str(run.metadata.get(name)) for run in runs))
        if len(facts) > 1:
            found.append(f"the {what} differ in {name.replace('_', ' ')} ({' / '.join(facts)})")
    return found


def _calibrated_here(rules: Rules, runs: Sequence[Run]) -> tuple[Rules, list[str]]:
    """The rules without noise that was calibrated on another machine, and a note that says so: a larger
    floor lets more pass, so in doubt there is none."""
    noise = rules.noise
    other = next((run for run in runs if noise and not noise.is_of(run.metadata)), None)
    if noise is None or other is None:
        return rules, []
    note = (
        f"noise was calibrated on {noise.machine}: not used for {other.run_id}, "
        f"which ran on {machine_text(other.metadata)}"
    )
    return replace(rules, noise=None), [note]


def _noise_note(noise: Noise | None, verdicts: Sequence[Verdict]) -> list[str]:
    lifted = sorted({v.finding.figure for v in verdicts if v.finding.calibrated})
    if noise is None or not lifted:
        return []
    return [
        f"floors lifted to this machine's noise, calibrated over {len(noise.runs)} runs: "
        + ", ".join(lifted)
    ]
