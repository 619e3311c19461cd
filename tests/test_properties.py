"""Whatever a scenario or an option says: cases, or a sentence of ours; never a traceback.

`pytest --hypothesis-profile=full` tries ten times as many inputs.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specbench.errors import SpecbenchError
from specbench.sampling.names import MAX_GAMMA, POLICIES
from specbench.scenario import (
    Scenario,
    load_scenario,
    parse_gammas,
    restore_scenario,
    scenario_files,
)

many = settings(
    max_examples=4 * settings().max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = st.integers(-2, 10**10).map(str) | st.sampled_from(
    ["0", "1", "128", "129", "٣", "1e3", ""]
)
RANGE_PARTS = st.one_of(
    NUMBERS,
    st.tuples(NUMBERS, NUMBERS).map("..".join),
    st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda three: "{}..{}:{}".format(*three)),
    st.sampled_from([*POLICIES, "Bass", "..", ":", "1..", "..2", "1..2:", "1...3"]),
    st.text(max_size=6),
)
RANGES = st.lists(RANGE_PARTS, min_size=1, max_size=4).map(",".join) | st.text("0123456789.,: ")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=4),
    RANGES,
    st.sampled_from(
        ["auto", "demo-lm", "synthetic", "code", "asr", "dummy", "fused", "-1,1", "1,2;3,4", "inf"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=2),
    max_leaves=5,
)
FIELDS = st.sampled_from([*Scenario.model_fields, "gama"])


def reads(path, overrides=None):
    """The scenario if it is one; then its cases are there too, and it survives being saved."""
    with suppress(SpecbenchError):
        scenario, _ = load_scenario(str(path), overrides)
        if len(scenario.gamma) * len(scenario.method) < 300:
            assert scenario.cases()
        assert restore_scenario(scenario.model_dump_json()) == scenario


@many
@given(RANGES)
def test_range_syntax(text):
    with suppress(SpecbenchError):
        found = parse_gammas(text)
        assert found
        assert len(set(found)) == len(found)
        assert all(one in POLICIES or 0 <= int(one) <= MAX_GAMMA for one in found)
        assert parse_gammas(",".join(found)) == found


@many
@given(first=st.integers(0, 140), last=st.integers(0, 140), step=st.integers(0, 9))
def test_ranges_that_are_well_formed(first, last, step):
    with suppress(SpecbenchError):
        assert parse_gammas(f"{first}..{last}:{step}") == [
            str(gamma) for gamma in range(first, last + 1, step)
        ]
        return
    assert first > last or step == 0 or last > MAX_GAMMA


@many
@given(fields=st.dictionaries(FIELDS, VALUES, max_size=4))
def test_scenarios_of_any_values(tmp_path, fields):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(fields, allow_unicode=True), encoding="utf-8")
    reads(path)


@many
@given(overrides=st.dictionaries(FIELDS, SCALARS, max_size=4))
def test_options_of_any_values(overrides):
    reads("smoke", overrides)


@many
@given(
    text=st.text(st.characters(codec="utf-8"), max_size=80)
    | st.text("&*!{}[]:-?|>%@`,\"'#\n ab1", max_size=40)
)
def test_files_of_any_text(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    reads(path)


@many
@given(
    name=st.sampled_from(sorted(scenario_files())),
    places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), min_size=1, max_size=4),
    cut=st.floats(0, 1),
)
def test_damaged_scenario_files(tmp_path, name, places, cut):
    content = scenario_files()[name].read_bytes()
    for place, bytes_ in places:
        at = int(place * len(content))
        content = content[:at] + bytes_ + content[at + len(bytes_) :]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content[: int(cut * len(content))] if cut < 0.5 else content)
    reads(path)


@many
@given(text=st.text() | VALUES.map(repr))
def test_saved_scenarios_of_any_text(text):
    with suppress(SpecbenchError):
        assert isinstance(restore_scenario(text), Scenario)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "[" * 100_000, "3"])
def test_a_saved_scenario_that_is_none(text):
    with pytest.raises(SpecbenchError, match="saved scenario cannot be read"):
        restore_scenario(text)
