"""The figures: one file for each family, all drawn from results by matplotlib, none by pyplot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specbench.report.figures import accepted, batches, gamma, law, machine, phases, roofline
from specbench.report.figures.chart import Chart, Material
from specbench.report.schema import MICRO, RUN


@dataclass(frozen=True)
class Kind:
    """A figure that can be asked for.

    Attributes:
        what: it shows, in a few words.
        charts: draws it: one for each group of cases, run or file that has the data.
        needs: the sentence for when none has.
        of: the kind of file that it is drawn from.
    """

    what: str
    charts: Callable[[Material], list[Chart]]
    needs: str
    of: str = RUN


KINDS = {
    gamma.SPEED: Kind("tokens/s over γ", gamma.gamma_charts(gamma.SPEED), gamma.FEW_GAMMAS),
    gamma.TAU: Kind("tokens per step over γ", gamma.gamma_charts(gamma.TAU), gamma.FEW_GAMMAS),
    gamma.VERIFY: Kind("verify time over γ", gamma.gamma_charts(gamma.VERIFY), gamma.FEW_GAMMAS),
    phases.PHASES: Kind(
        "where the wall time goes", phases.phase_charts, "the steps were not timed"
    ),
    accepted.ACCEPTED: Kind(
        "accepted drafts per step", accepted.accepted_charts, "no case drafted anything"
    ),
    law.LAW: Kind(
        "speed against total variation", law.law_charts, "no approximation's law was measured"
    ),
    law.RANGE: Kind(
        "the sigmoid method over its range", law.range_charts,
        "it takes at least three symmetric ranges of the sigmoid method",
    ),
    batches.BATCH_SPEED: Kind(
        "throughput over the batch size", batches.batch_charts(batches.BATCH_SPEED),
        "it takes at least two batch sizes",
    ),
    batches.BATCH_LATENCY: Kind(
        "time per token over the batch size", batches.batch_charts(batches.BATCH_LATENCY),
        "it takes at least two batch sizes",
    ),
    machine.MACHINE: Kind(
        "the GPU's utilisation, power and clock", machine.machine_charts,
        "the GPU was not sampled (a CPU, no NVML, or batches shorter than its period)",
    ),
    roofline.ROOFLINE: Kind(
        "micro: time against bytes to read", roofline.roofline_charts,
        "it takes a file of `specbench micro` from a GPU", MICRO,
    ),
    roofline.MICRO_GAMMA: Kind(
        "micro: time over γ", roofline.micro_gamma_charts,
        "it takes a file of `specbench micro` with at least three γ", MICRO,
    ),
}  # fmt: skip
"""In the order in which a report shows them."""
