from __future__ import annotations

import pytest

from specbench.errors import InputError
from specbench.floors import GATES, METRICS, Floor, floors, parse_floor, parse_thresholds


@pytest.mark.parametrize(
    ("name", "value", "fields"),
    [
        ("verify_us", "3%", {"relative": 0.03}),
        ("verify_us", "0.5us", {"absolute": 0.5}),
        ("verify_us", "0.5 µs", {"absolute": 0.5}),
        ("verify_us", "2%, 1us", {"relative": 0.02, "absolute": 1.0}),
        ("verify_us", ["2%", "1us"], {"relative": 0.02, "absolute": 1.0}),
        ("quality", 0.01, {"absolute": 0.01}),
        ("alpha", ".5%", {"relative": 0.005}),
        ("tau", "0%", {"relative": 0.0}),
    ],
)
def test_what_a_floor_can_be(name, value, fields):
    assert parse_floor(name, value) == pytest.approx(fields)


@pytest.mark.parametrize("value", ["", "3", "-3%", "3%%", "nan%", "inf%", "3ms", "1e3us", None, {}])
def test_what_is_no_floor_of_a_time(value):
    with pytest.raises(InputError, match="is no floor of verify_us") as error:
        parse_floor("verify_us", value)
    assert "3%" in error.value.hint


@pytest.mark.parametrize("name", ["tokens_per_s", "speedup", "tau"])
@pytest.mark.parametrize("value", ["50", 0.1, "3%,0.1", "0"])
def test_of_what_is_judged_as_a_ratio_a_floor_is_a_part(name, value):
    with pytest.raises(InputError, match=f"is no floor of {name}") as error:
        parse_floor(name, value)
    assert error.value.hint == "Give a part, 3%."


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="no gate on 'verify'") as error:
        parse_floor("verify", "3%")
    assert "Did you mean 'verify_us'?" in error.value.hint


def test_thresholds_one_by_one_or_with_commas():
    expected = {"verify_us": {"relative": 0.02, "absolute": 1.0}, "quality": {"absolute": 0.01}}
    assert parse_thresholds(["verify_us=2%", "verify_us=1us,quality=0.01"]) == expected
    assert parse_thresholds(["verify_us = 2% , verify_us=1us", "quality=0.01"]) == expected
    with pytest.raises(InputError, match="names no metric"):
        parse_thresholds(["3%"])


def test_a_layer_replaces_a_floor_as_a_whole():
    found = floors({"verify_us": {"relative": 0.1}, "alpha": {"relative": 0.01}})
    assert found["verify_us"] == Floor(0.1, 0.0)
    assert found["alpha"] == Floor(0.01, 0.0)
    assert found["tau"] == METRICS["tau"].floor
    later = floors({"verify_us": {"relative": 0.1}}, {"verify_us": {"absolute": 2.0}})
    assert later["verify_us"] == Floor(0.0, 2.0)


def test_the_larger_of_both_floors_counts():
    floor = Floor(0.03, 0.2)
    assert floor.on(100.0, False) == 0.03
    assert floor.on(4.0, False) == pytest.approx(0.05)  # 0.2 of 4 µs
    assert floor.on(0.5, True) == 0.2
    assert floor.on(0.0, False) == 0.03


def test_every_metric_belongs_to_a_gate_that_can_be_named():
    assert {metric.gate for metric in METRICS.values()} == set(GATES)
