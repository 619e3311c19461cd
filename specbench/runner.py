"""Runs a scenario's cases and turns what happened into rows.

Order: repeat by repeat, block by block. A block is everything that differs in method and γ alone; in
it all cases are interleaved sample by sample, A B C … then … C B A, so that drift of the machine hits
all of them alike, γ = 0 too. Each finished round over a block's cases is a part on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from specbench import profiling
from specbench.outcome import Outcome, Talk, as_notice, not_run
from specbench.pair_run import PairRun
from specbench.pairs import load_pair
from specbench.planning import Plan
from specbench.report.writer import RunWriter
from specbench.rows import Row, case_row, failure_row, skipped_row
from specbench.scenario import Case
from specbench.telemetry.lost import lost_reason


def execute(todo: Plan, writer: RunWriter, talk: Talk) -> Outcome:
    """Runs every case that is not skipped and not finished already; each block is written when done.

    A case that fails becomes rows with the reason; the others go on, unless it took the GPU along:
    then they fail too, and `lost` is set. Ctrl-C writes what is finished and returns with `interrupted`
    set.
    """
    outcome = Outcome()
    skipped = [case for case in todo.cases if case.skip]
    outcome.skipped = len(skipped)
    writer.write([skipped_row(todo, writer.run_id, case) for case in skipped])
    cases = [case for case in todo.cases if not case.skip]
    scenario = todo.scenario
    for notice in todo.notices:
        talk.notice(notice)
    talk.total(len(cases) * scenario.sequences * scenario.repeats)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(scenario.cpu_threads or threads)
        # Events are recorded in the current device's stream: it must be the one that works.
        with torch.cuda.device(todo.device) if todo.device.type == "cuda" else nullcontext():
            _run_pairs(todo, cases, writer, talk, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except Exception as error:  # leaving the device's context can fail once more
        if outcome.lost is None or not lost_reason(error):
            raise
    finally:
        torch.set_num_threads(threads)
    return outcome


def _run_pairs(
    todo: Plan, cases: Sequence[Case], writer: RunWriter, talk: Talk, outcome: Outcome
) -> None:
    """Pair by pair; profiling comes when everything is timed: it slows launches down for good."""
    finished = writer.finished()
    groups = [list(group) for _, group in itertools.groupby(cases, lambda c: (c.pair, c.dtype))]

    def loaded(group: list[Case]) -> PairRun:
        talk.stage(f"loading {group[0].pair}")
        pair = load_pair(
            todo.specs[group[0].pair], str(todo.device), group[0].dtype, todo.scenario.load_format
        )
        return PairRun(todo, pair, group, writer, talk, outcome, finished)

    last: PairRun | None = None
    for group in groups:
        last, failure = None, None  # its memory is the next one's
        try:
            last = loaded(group) if outcome.lost is None else None
        except Exception as error:
            if not outcome.loses_gpu(error, f"loading {group[0].pair}"):
                if len(groups) == 1:  # nothing else can be done
                    raise
                failure = failure_row(error)
                outcome.errors.append(f"{group[0].pair} cannot be loaded: {as_notice(error)}")
        if last is None:
            _leave_out(todo, group, writer, outcome, failure or not_run(outcome))
        else:
            last.run()
    for group in reversed(groups if outcome.lost is None else []):  # the last one is there already
        wanted = [case for case in group if profiling.is_wanted(todo, case, writer)]
        try:
            if wanted and (last is None or last.cases is not group):
                last = None
                last = loaded(group)
            for case in wanted:
                talk.stage(f"profiling {case.method} γ={case.gamma}")
                assert last is not None
                last.profile(case)
        except Exception as error:  # what was measured stands
            last = None
            talk.notice(f"no profile of {group[0].pair}: {as_notice(error)}")


def _leave_out(
    todo: Plan, group: list[Case], writer: RunWriter, outcome: Outcome, failure: Row
) -> None:
    """Of a pair that cannot be loaded, or that the GPU was lost for, a failed row for each case."""
    row = failure | {"repeat": 0}
    writer.write([case_row(todo, writer.run_id, case) | row for case in group])
    outcome.failed += len(group)
