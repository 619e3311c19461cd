"""Running code that a model wrote, and judging it where that code cannot reach."""

from specbench.sandbox.supervisor import Limits, Problem, Verdict, isolation, judge, judge_all

__all__ = ["Limits", "Problem", "Verdict", "isolation", "judge", "judge_all"]
