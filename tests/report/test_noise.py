from __future__ import annotations

import pytest

from specbench.errors import InputError
from specbench.report.noise import Noise, beside, load_noise, noise_of, robust_floor, save_noise


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


def test_one_case_in_ten_and_at_least_one_of_three_lifts_no_floor():
    assert robust_floor([0.01]) == 0.01
    assert robust_floor([0.01, 0.6]) == 0.6
    assert robust_floor([0.02, 0.6, 0.01]) == 0.02
    assert robust_floor([0.001 * i for i in range(100)]) == pytest.approx(0.089)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_it_does_not_matter_beside_which_file_of_a_side_it_is(tmp_path, where):
    files = [tmp_path / f"micro-{i}.parquet" for i in range(3)]
    assert noise_of(files) is None
    save_noise(Noise({"time_us/baseline": 0.05}), files[where])
    assert noise_of(files).floors == {"time_us/baseline": 0.05}


def test_several_that_differ_are_refused(tmp_path):
    files = [tmp_path / f"micro-{i}.parquet" for i in range(3)]
    save_noise(Noise({"time_us/baseline": 0.05}), files[0])
    save_noise(Noise({"time_us/baseline": 0.05}), files[1])
    assert noise_of(files).of("time_us", "baseline") == 0.05
    save_noise(Noise({"time_us/baseline": 0.06}), files[2])
    with pytest.raises(InputError, match=r"micro-0.noise.json, .*micro-2.noise.json") as error:
        noise_of(files)
    assert "--reference" in error.value.hint
