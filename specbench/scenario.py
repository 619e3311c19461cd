"""Scenarios: a strict YAML file and command-line overrides become axes, and the axes become cases.

One scenario asks one question. Every axis takes a value, a comma-separated text or a list; `cases()`
is their product, in which an impossible combination stays, skipped, with its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from specbench.assets import scenarios_dir
from specbench.errors import InputError, given_path, nearest, unknown_name
from specbench.floors import parse_floor
from specbench.sampling.names import COLDEST, MAX_GAMMA, POLICIES, SIGMOID_RANGE
from specbench.tasks.base import (
    AUTO,
    PROMPT_TOKENS,
    SYNTHETIC,
    PairKind,
    dataset_tasks,
    default_task,
    kinds_of,
)

_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})(?::([0-9]{1,9}))?")
GAMMA_HINT = (
    "Give 5, a list 1,2,4, a range 1..20 (20 included), a range with a step 1..20:5, or a policy: "
    + ", ".join(POLICIES)
    + "."
)


def parse_gammas(text: str) -> list[str]:
    """γ values in the order given: `5`, `1,2,4`, `1..20` (inclusive), `1..20:5`, `heuristic`, `bass`.

    Raises:
        InputError: the text is none of these, a range runs backwards, or a γ is over 128.
    """
    found: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        found += [value for value in _parse_gamma_part(part, text) if value not in found]
    return found


def _parse_gamma_part(part: str, text: str) -> list[str]:
    if part in POLICIES:
        return [part]
    match = _RANGE.fullmatch(part)
    if match:
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        if first > last:
            raise InputError(
                f"gamma range {part!r} runs backwards", f"Write it as {last}..{first}."
            )
        if step == 0:
            raise InputError(f"gamma range {part!r} has a step of 0", GAMMA_HINT)
        values = range(first, last + 1, step) if last <= MAX_GAMMA else [last]
    elif re.fullmatch(r"[0-9]{1,9}", part):
        values = [int(part)]
    else:
        raise InputError(f"gamma {_short(text)!r} cannot be read at {_short(part)!r}", GAMMA_HINT)
    if values[-1] > MAX_GAMMA:
        raise InputError(f"gamma {values[-1]} is too large", f"The largest is {MAX_GAMMA}.")
    return [str(value) for value in values]


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _as_list(value: Any) -> Any:
    """One value, a comma-separated text or a list, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _as_numbers(value: Any) -> Any:
    """Like `_as_list`, with the numbers in a text read as such; what is no number is left to refuse."""
    return [_as_number(item) for item in _as_list(value)]


def _each_once(items: list[Any]) -> list[Any]:
    """After validation, when `1` and `1.0` are the same: a case that is named twice runs once."""
    return list(dict.fromkeys(items))


def _as_number(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    for read in (int, float):
        try:
            return read(item)
        except ValueError:
            continue
    return item


def _as_gammas(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str | list | tuple):
        return value
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
        return value
    return parse_gammas(",".join(str(item) for item in items))


def _as_ranges(value: Any) -> Any:
    """`-10,10`, several as `-10,10;-30,30`, or the same as YAML lists."""
    if isinstance(value, str):
        value = value.split(";")
    several = isinstance(value, list | tuple) and any(
        isinstance(item, list | tuple | str) for item in value
    )
    return [_as_range(item) for item in (value if several else [value])]


def _as_range(value: Any) -> tuple[float, float]:
    pair = _as_numbers(value)
    try:
        alpha, beta = (float(item) for item in pair if not isinstance(item, str | bool))
    except (TypeError, ValueError, OverflowError):
        alpha = beta = 0.0
    if len(pair) != 2 or not -math.inf < alpha < beta < math.inf:
        shown = _short(",".join(str(item) for item in pair))
        raise InputError(
            f"sigmoid_range {shown!r} is no range",
            "Give alpha and beta, the smaller first: -10000,10000; several as -10,10;-30,30.",
        )
    return alpha, beta


Once = AfterValidator(_each_once)


def _not_too_cold(value: float) -> float:
    if 0 < value < COLDEST:
        raise InputError(
            f"temperature {value:g} is too small",
            f"Give 0, which is greedy, or at least {COLDEST:g}.",
        )
    return value


def _as_floors(value: Any) -> Any:
    """Metric → floor as text, read once here so that a wrong one is refused before anything runs."""
    if not isinstance(value, dict):
        return value
    for name, floor in value.items():
        parse_floor(str(name), floor)
    return {
        str(name): ", ".join(map(str, floor)) if isinstance(floor, list | tuple) else str(floor)
        for name, floor in value.items()
    }


Names = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1), Once]
Gammas = Annotated[list[str], BeforeValidator(_as_gammas), Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]  # the result file's columns hold no more
Counts = Annotated[list[Count], BeforeValidator(_as_numbers), Field(min_length=1), Once]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_not_too_cold)]
Temperatures = Annotated[list[Temperature], BeforeValidator(_as_numbers), Field(min_length=1), Once]
Ranges = Annotated[
    list[tuple[float, float]], BeforeValidator(_as_ranges), Field(min_length=1), Once
]
Dtypes = Annotated[
    list[Literal["auto", "float32", "float16", "bfloat16"]],
    BeforeValidator(_as_list),
    Field(min_length=1),
    Once,
]
Engines = Annotated[
    list[Literal["native", "transformers"]], BeforeValidator(_as_list), Field(min_length=1), Once
]
Attentions = Annotated[
    list[Literal["pad", "split"]], BeforeValidator(_as_list), Field(min_length=1), Once
]
Executions = Annotated[
    list[Literal["auto", "eager", "graphs", "compiled"]],
    BeforeValidator(_as_list),
    Field(min_length=1),
    Once,
]
# Not each once: a length that is named twice is given to twice as many samples.
Lengths = Annotated[list[Count], BeforeValidator(_as_numbers), Field(min_length=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Floors = Annotated[dict[str, str], BeforeValidator(_as_floors)]


class Scenario(BaseModel):
    """A question asked of some pairs, tasks and methods. scenarios/README.md has every field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = "custom"
    description: str = ""
    pair: Names = ["demo-lm"]
    task: Names = [AUTO]
    dataset: Annotated[str, Field(min_length=1)] | None = None
    method: Names = ["baseline", "exact", "sigmoid", "fused", "block"]
    gamma: Gammas = ["0", "1", "2", "4", "8"]
    batch_size: Counts = [1]
    temperature: Temperatures = [1.0]
    top_k: Count | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    sigmoid_range: Ranges = [SIGMOID_RANGE]
    engine: Engines = ["native"]
    attention: Attentions = ["pad"]
    execution: Executions = ["auto"]
    load_format: Literal["auto", "dummy"] = "auto"
    prompt_tokens: Lengths | None = None
    synthetic_acceptance: Rate | None = None
    refill: bool = False
    completions_per_sample: Count = 1
    chat_template: bool | None = None
    allow_unsandboxed_code: bool = False
    time_budget: Seconds | None = None
    dtype: Dtypes = ["auto"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    cpu_threads: Count | None = None
    samples: Count = 8
    repeats: Count = 2
    first_repeat: Annotated[int, Field(ge=0, lt=2**30)] = 0
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 1
    profile: Literal["off", "kernels", "trace"] = "kernels"
    max_new_tokens: Count = 64
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    gate: Floors = {}

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        tasks = ", ".join(self.task)
        if self.dataset is not None and AUTO not in self.task:
            suited = dataset_tasks(self.dataset)
            if not set(suited) & set(self.task):
                raise InputError(
                    f"dataset {self.dataset} is for the task {' or '.join(suited)}, not for {tasks}",
                    f"Give --task {suited[0]}.",
                )
        if SYNTHETIC in self.task or (self.task == [AUTO] and self.load_format == "dummy"):
            return self
        if self.load_format == "dummy":
            raise InputError(
                f"load_format dummy cannot run the task {tasks}: random weights have no tokenizer",
                f"Give --task {SYNTHETIC}: prompts of random token ids.",
            )
        if self.prompt_tokens is not None:
            raise InputError(
                f"prompt_tokens are for the task {SYNTHETIC}; {tasks} has prompts of its own",
                f"Give --task {SYNTHETIC}, or no prompt_tokens.",
            )
        return self

    def cases(self, kinds: Mapping[str, PairKind] | None = None) -> list[Case]:
        """The product of the axes, in the order in which they run; impossible ones carry `skip`.

        Args:
            kinds: of the pairs; one that is not named reads text.
        """
        kind_of: dict[str, PairKind] = {name: (kinds or {}).get(name, "text") for name in self.pair}
        suited = () if self.dataset is None else dataset_tasks(self.dataset)
        pairs = itertools.product(self.pair, self.dtype)
        axes = [
            axis
            for axis in itertools.product(
                self.engine, self.attention, self.execution, self.batch_size, self.temperature,
                self.gamma, self._methods(),
            )
            if not self._is_plain_again(*axis[-2:])
        ]  # fmt: skip
        return [
            Case(
                pair=pair, task=task, engine=engine, attention=attention, dtype=dtype,
                batch_size=batch_size, temperature=temperature, gamma=gamma, method=method,
                sigmoid_range=sigmoid_range, top_k=self.top_k, top_p=self.top_p,
                max_new_tokens=self.max_new_tokens, execution=execution,
                load_format=self.load_format,
                dataset=self.dataset if task in suited else None,
                completions_per_sample=self.completions_per_sample,
                chat_template=self.chat_template,
                prompt_tokens=self._prompt_tokens(task, kind_of[pair]),
                synthetic_acceptance=self.synthetic_acceptance, refill=self.refill,
                skip=self._mismatch(task, pair, kind_of[pair])
                or _beyond(engine, batch_size, gamma, attention, execution)
                or self._impossible(task, batch_size, gamma, attention, execution, temperature),
            )
            for pair, dtype in pairs
            for task in self.tasks(kind_of[pair])
            for engine, attention, execution, batch_size, temperature, gamma,
            (method, sigmoid_range) in axes
        ]  # fmt: skip

    def _methods(self) -> list[tuple[str, tuple[float, float] | None]]:
        """Only `sigmoid` has a range, so only it is multiplied by the axis."""
        return [
            (method, chosen)
            for method in self.method
            for chosen in (self.sigmoid_range if method == "sigmoid" else [None])
        ]

    def _is_plain_again(self, gamma: str, method: tuple[str, tuple[float, float] | None]) -> bool:
        """Plain decoding verifies nothing: it is the same at each range."""
        return gamma == "0" and method[1] not in (None, min(self.sigmoid_range))

    def tasks(self, kind: PairKind) -> list[str]:
        """The tasks of a pair of that kind, each once."""
        dummy = self.load_format == "dummy"
        default = default_task(kind, dummy, self.dataset)
        return list(dict.fromkeys(default if name == AUTO else name for name in self.task))

    @property
    def repeat_numbers(self) -> range:
        """Each repeat's, from which its random numbers follow."""
        return range(self.first_repeat, self.first_repeat + self.repeats)

    @property
    def sequences(self) -> int:
        """That each case decodes in a repeat."""
        return self.samples * self.completions_per_sample

    def _prompt_tokens(self, task: str, kind: PairKind) -> tuple[int, ...] | None:
        """Only `synthetic` has prompts that are lengths."""
        return tuple(self.prompt_tokens or (PROMPT_TOKENS[kind],)) if task == SYNTHETIC else None

    def _mismatch(self, task: str, pair: str, kind: PairKind) -> str | None:
        if kind in kinds_of(task):
            return None
        takes = {"speech": "hears speech", "text": "reads text"}
        return f"{pair} {takes[kind]}, and {task} is for pairs of the other kind"

    def _impossible(
        self,
        task: str,
        batch_size: int,
        gamma: str,
        attention: str,
        execution: str,
        temperature: float,
    ) -> str | None:
        if self.load_format == "dummy" and task != SYNTHETIC:
            return f"random weights have no tokenizer: load_format dummy runs {SYNTHETIC} alone"
        if self.completions_per_sample > 1 and temperature == 0:
            return "at temperature 0 all completions of a sample are the same"
        asked = f"{self.samples} samples"
        if self.completions_per_sample > 1:
            asked += f" of {self.completions_per_sample} completions"
        if batch_size > self.sequences:
            return f"a batch of {batch_size} cannot be filled from {asked}"
        if self.sequences % batch_size and not self.refill:
            return f"{asked} leave a batch of {batch_size} partly empty"
        if gamma == "heuristic" and batch_size > 1:
            return "the heuristic schedule is defined for batch size 1 (transformers); use bass"
        if attention == "split" and execution == "compiled":
            return "compiled code reads the whole cache, so that split would read as much as pad"
        return None


def _beyond(engine: str, batch_size: int, gamma: str, attention: str, execution: str) -> str | None:
    """What an engine that is not ours cannot do."""
    if engine != "transformers":
        return None
    if batch_size > 1:
        return "transformers' assisted generation takes one sequence at a time: batch size 1 only"
    if gamma == "bass":
        return "bass is no schedule of transformers: give a number or heuristic"
    if attention != "pad":
        return "one sequence has nothing to split: transformers attends in its own way"
    if execution in {"graphs", "compiled"}:
        return "transformers issues its steps op by op: execution auto or eager"
    return None


@dataclass(frozen=True)
class Case:
    """One combination of the axes; `skip` says why it cannot run, None if it can.

    `prompt_tokens` are the lengths of the task synthetic, None in any other.
    """

    pair: str
    task: str
    engine: str
    attention: str
    dtype: str
    batch_size: int
    temperature: float
    gamma: str
    method: str
    sigmoid_range: tuple[float, float] | None
    top_k: int | None
    top_p: float | None
    max_new_tokens: int
    execution: str = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    prompt_tokens: tuple[int, ...] | None = None
    synthetic_acceptance: float | None = None
    refill: bool = False
    dataset: str | None = None
    completions_per_sample: int = 1
    chat_template: bool | None = None
    skip: str | None = None

    @property
    def case_id(self) -> str:
        """Readable and stable: method, γ, batch size and a hash of everything that makes the case.

        What has a default came later and counts where it differs, so that older ids stand.
        """
        what = {
            field.name: value
            for field in fields(self)
            if field.name != "skip" and (value := getattr(self, field.name)) != field.default
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return f"{self.method}-g{self.gamma}-b{self.batch_size}-{digest[:8]}"


def load_scenario(
    name_or_path: str, overrides: Mapping[str, Any] | None = None
) -> tuple[Scenario, str]:
    """Reads a scenario and applies command-line overrides.

    Args:
        name_or_path: the stem of a built-in file, or a path that ends in .yaml or .yml.
        overrides: field name to value; None values are ignored.

    Returns:
        the scenario, and the text of its file.

    Raises:
        InputError: no such scenario, or the file or an option has an unknown key or a wrong value;
            the message gives file, key and what was expected.
    """
    path = _find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        fields = yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # ValueError: bytes that are no UTF-8, and dates or numbers that are none.
        problem = " ".join(str(error).split())
        raise InputError(
            f"scenario {path} cannot be read: {problem}", "Give a YAML file."
        ) from None
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise InputError(
            f"scenario {path} holds no mapping of fields", "Write one `key: value` a line."
        )
    base = {"name": path.stem, **fields}
    scenario = _validate(base, f"scenario {path}")
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    return (
        _validate({**scenario.model_dump(), **given}, "the command line") if given else scenario
    ), text


def restore_scenario(text: str | None) -> Scenario:
    """A scenario from its own `model_dump_json()`, in which JSON has turned tuples into lists.

    Raises:
        InputError: it is not that, or None: the run was begun by something else.
    """
    try:
        fields = json.loads(text or "")
    except (ValueError, TypeError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InputError(
            f"the run's saved scenario cannot be read: {_short(repr(text))}",
            "Start it anew, without --resume.",
        )
    return _validate(fields, "the saved scenario")


class _Loader(yaml.SafeLoader):
    """A field that is given twice is refused; YAML's own readers take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(
                problem=f"{twice!r} is given twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def _find(name_or_path: str) -> Path:
    path = given_path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        if not path.is_file():
            raise InputError(f"there is no scenario file {name_or_path}", "Check the path.")
        return path
    built_in = scenario_files()
    if name_or_path not in built_in:
        raise unknown_name("scenario", name_or_path, built_in)
    return built_in[name_or_path]


def scenario_files() -> dict[str, Path]:
    """The built-in scenarios by name."""
    return {path.stem: path for path in sorted(scenarios_dir().glob("*.yaml"))}


def _validate(fields: dict[Any, Any], where: str) -> Scenario:
    known = Scenario.model_fields
    for key in fields:
        if key not in known:
            hint = f"{nearest(str(key), known)}The fields are: {', '.join(known)}."
            raise InputError(f"{where}: unknown field {key!r}", hint)
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, fields, where) from None


def _explain(error: ValidationError, fields: dict[Any, Any], where: str) -> InputError:
    """pydantic's first complaint as message and hint; our own validators bring theirs along."""
    first = error.errors()[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return InputError(f"{where}: {own.message}", own.hint)
    key = str(first["loc"][0])
    if first["type"] == "string_pattern_mismatch":  # of the one field with a pattern
        expected = "Give auto, cpu, cuda or cuda:N"
    else:
        expected = first["msg"].replace("Input should", "It should")
    return InputError(f"{where}: {key} is {_short(repr(fields.get(key)))}", f"{expected}.")
