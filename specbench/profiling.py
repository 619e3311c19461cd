"""The profiling pass: what the kernels of a case's verify step take, and a trace of a few steps.

It comes when everything is timed. torch.profiler slows launches down, for good once it was there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from specbench.planning import Plan
from specbench.report.writer import RunWriter, file_name
from specbench.rows import Row
from specbench.sampling.policy import make_policy
from specbench.scenario import Case
from specbench.telemetry.trace import StepTrace

STEPS = 4
"""Steps that are profiled if all drafts are kept, and more if they are not."""
MOST_TOKENS = 64
"""Of a profiled sequence, whose trace must still fit into a viewer."""


def is_wanted(todo: Plan, case: Case, writer: RunWriter) -> bool:
    """Whether there is something to find out about a case that is not known yet.

    A CPU has no kernels: there only a trace is worth the time.
    """
    mode = todo.scenario.profile
    if mode == "off" or (mode == "kernels" and todo.device.type != "cuda"):
        return False
    done = case.case_id in writer.noted or todo.device.type != "cuda"
    return not done or (mode == "trace" and not trace_path(writer, case).exists())


def shortened(case: Case) -> Case:
    """The case, long enough for a few steps."""
    tokens = min(STEPS * (make_policy(case.gamma).gamma + 1) + STEPS, MOST_TOKENS)
    return replace(case, max_new_tokens=min(case.max_new_tokens, tokens))


def trace_path(writer: RunWriter, case: Case) -> Path:
    """Beside the result file, in a folder of its name."""
    folder = Path(file_name(writer.scenario, writer.metadata)).stem
    return writer.output_dir / f"{folder}-traces" / f"{case.case_id}.json.gz"


def keep(todo: Plan, case: Case, trace: StepTrace, writer: RunWriter) -> None:
    """Notes the kernels' time and writes the trace, as far as the scenario asks.

    Raises:
        MachineError: the profiler saw nothing on the GPU; the disk is full.
        OSError: the trace cannot be written.
    """
    if todo.scenario.profile == "trace":
        path = trace_path(writer, case)
        path.parent.mkdir(exist_ok=True)
        trace.write(path)
    if todo.device.type == "cuda":
        verify, known = trace.kernels("verify"), Row()
        if verify is not None:
            known = {"verify_kernel_us": verify.kernel_us, "verify_launches": verify.launches}
        writer.note(case.case_id, known)
