from __future__ import annotations

import pytest

from specbench.errors import InputError
from specbench.report.noise import Noise, beside, load_noise, quantile, save_noise


def test_is_kept_beside_the_reference(tmp_path):
    reference = tmp_path / "demo-1.parquet"
    floors = {"verify_us/baseline": 0.04, "alpha/": 0.01}
    about = {"device_name": "H100", "driver": "580", "kernel_hash": "k", "git_sha": None}
    noise = Noise(floors, {"alpha/": 12}, ["a", "b"], about)
    path = save_noise(noise, reference)
    assert path == beside(reference) == tmp_path / "demo-1.noise.json"
    found = load_noise(reference)
    assert (found.floors, found.figures, found.runs) == (noise.floors, noise.figures, ["a", "b"])
    assert found.about == about
    assert found.of("verify_us", "baseline") == 0.04
    assert found.of("speedup", "γ = 0") == 0.0


@pytest.mark.parametrize(
    ("calibrated", "ran", "expected"),
    [
        (("H100", "580"), ("H100", "580"), True),
        (("EPYC", None), ("EPYC", None), True),
        ((None, None), (None, None), True),
        (("H100", "580"), ("H200", "580"), False),
        (("H100", "580"), ("H100", "581"), False),
        (("H100", "580"), ("H100", None), False),
        (("H100", None), ("H100", "580"), False),
        ((None, None), ("H100", "580"), False),
    ],
)
def test_is_of_one_device_and_driver(calibrated, ran, expected):
    about, metadata = (
        dict(zip(("device_name", "driver"), one, strict=True)) for one in (calibrated, ran)
    )
    assert Noise({}, about=about).is_of(metadata) is expected


def test_without_one_there_is_none(tmp_path):
    assert load_noise(tmp_path / "demo.parquet") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "specbench.noise/2", "floors": {}, "runs": []}']
    + [
        f'{{"schema": "specbench.noise/1", "floors": {floors}, "runs": []}}'
        for floors in ('{"tau/": NaN}', '{"tau/": -1}', '{"tau/": "wide"}', "[]")
    ],
)
def test_a_damaged_one_is_refused(tmp_path, text):
    (tmp_path / "demo.noise.json").write_text(text)
    with pytest.raises(InputError, match=r"demo.noise.json cannot be read") as error:
        load_noise(tmp_path / "demo.parquet")
    assert "specbench calibrate" in error.value.hint


def test_of_few_changes_the_largest_counts():
    assert quantile([0.01, -0.04, 0.02]) == 0.04
    assert quantile([0.001 * i for i in range(1001)]) == pytest.approx(0.99)
