"""Whatever became of a result file or an unfinished run: rows that are whole, or a sentence of ours.

`pytest --hypothesis-profile=full` tries ten times as many inputs.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from contextlib import suppress

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specbench.cli.app import main
from specbench.errors import InputError
from specbench.report import atomic
from specbench.report.micro_writer import MicroWriter
from specbench.report.partial import PARTIAL
from specbench.report.reader import load_results, read_run
from specbench.report.schema import METADATA_KEY
from specbench.report.writer import RunWriter

some = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
many = settings(some, max_examples=3 * settings().max_examples)
RUN_ID = "0badcafe"
ROW = {"case_id": "fused-2", "repeat": 0, "status": "ok", "new_tokens": 7}
SHAPE = {
    "preset": "paper", "exact": True, "implementation": "cuda", "batch_size": 1, "gamma": 5,
    "vocab_size": 32000, "dtype": "float32", "noise": 0.6, "l2": "cold", "status": "ok",
    "set_bytes": 1_408_000, "l2_bytes": 50_000_000, "input_sets": 200, "accepted": 3.5,
    "read_gbps": 1000.0, "launch_floor_us": 1.0, "floor_us": 1.4, "floor_ratio": 5.0,
    "bandwidth_share": 0.2, "graph_us_spread": 0.01, "replays": 30, "time_us": 7.0, "time_from": "graph",
    "bytes_moved": 1e6, "graph_us": 7.0,
    "graph_us_samples": [7.0, 7.1],
}  # fmt: skip

PLACES = st.floats(0, 1, exclude_max=True)
DAMAGE = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), PLACES, st.just(0.0)),
        st.tuples(st.just("flip"), PLACES, PLACES),
        st.tuples(st.just("flip near the end"), PLACES, PLACES),
        st.tuples(st.just("drop"), PLACES, PLACES),
        st.tuples(st.just("repeat"), PLACES, PLACES),
        st.tuples(st.just("zero"), PLACES, PLACES),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content, damage):
    """Cut off, bits turned, pieces lost, doubled or zeroed; a place is a share of the file."""
    for what, place, more in damage:
        at = int(place * len(content))
        end = at + 1 + int(more * min(len(content) - at, 400))
        if what == "cut":
            content = content[:at]
        elif what == "drop":
            content = content[:at] + content[end:]
        elif what == "repeat":
            content = content[:end] + content[at:]
        elif what == "zero":
            content = content[:at] + bytes(len(content[at:end])) + content[end:]
        elif content:
            if what == "flip near the end":  # where Parquet keeps what the rest depends on
                at = max(len(content) - 1 - int(place * 6000), 0)
            flipped = content[at] ^ (1 << int(more * 8))
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
    return content


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_sync", lambda path: None)
        patch.setenv("COLUMNS", "160")
        yield


@pytest.fixture
def unfinished(tmp_path):
    """A run of three parts, a sample each, and a note."""
    out = tmp_path / "unfinished"
    writer = RunWriter(out, "demo", {"methods": {"fused": {"exact": True}}}, RUN_ID)
    for sample in "abc":
        writer.write([ROW | {"sample_id": sample}])
    writer.note("fused-2", {"verify_kernel_us": 4.5})
    writer.close()
    return out / PARTIAL / RUN_ID


@pytest.fixture
def run_file(write_run, demo):
    """A result file of twelve rows, and what it holds."""
    path = write_run(demo(), RUN_ID)
    return path, path.read_bytes()


@pytest.fixture
def micro_file(tmp_path):
    """The same of micro, of two rows."""
    writer = MicroWriter(tmp_path, "paper", {})
    writer.write([SHAPE | {"method": method} for method in ("baseline", "fused")], complete=True)
    return writer.path, writer.path.read_bytes()


def comes_to_an_end(*command):
    """A command that says what it can or what it cannot, and never that it has a bug."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main([*map(str, command)])
    assert code in (0, 1, 2, 3, 4), said.getvalue()
    assert "unexpected" not in said.getvalue(), said.getvalue()


@many
@given(damage=DAMAGE)
def test_a_file_of_a_run(run_file, damage):
    path, whole = run_file
    path.write_bytes(damaged(whole, damage))
    with suppress(InputError):
        assert len(read_run(path).rows) == 12
        if path.read_bytes() != whole:
            comes_to_an_end("compare", path)


@many
@given(damage=DAMAGE)
def test_a_file_of_micro(micro_file, damage):
    path, whole = micro_file
    path.write_bytes(damaged(whole, damage))
    with suppress(InputError):
        assert len(read_run(path).rows) == 2
        if path.read_bytes() != whole:
            comes_to_an_end("compare", path)


@some
@given(
    damage=st.dictionaries(
        st.sampled_from(
            ["run.json", "notes.json", *(f"part-{number:06d}.parquet" for number in (1, 2, 3))]
        ),
        DAMAGE,
        min_size=1,
        max_size=3,
    )
)
def test_an_unfinished_run(unfinished, damage):
    """What is not damaged is kept, what is comes again."""
    out = unfinished.parents[1].with_name("copy")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(unfinished.parents[1], out)
    folder = out / PARTIAL / RUN_ID
    for name, how in damage.items():
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), how))
    intact = {sample for i, sample in enumerate("abc", 1) if f"part-{i:06d}.parquet" not in damage}
    if "run.json" in damage and not intact:
        with suppress(InputError):  # nothing may be left that says what it was
            RunWriter(out, "", {}, RUN_ID, resume=True).close()
        return
    writer = RunWriter(out, "", {}, RUN_ID, resume=True)
    there = {sample for _, _, sample, _ in writer.finished()}
    assert intact <= there <= set("abc")
    for sample in sorted(set("abc") - there):
        writer.write([ROW | {"sample_id": sample}])
    rows = load_results(writer.finish())
    assert sorted(rows["sample_id"]) == list("abc")


FIELDS = [
    "schema_version", "kind", "run_id", "created_utc", "scenario", "methods", "packages", "clocks",
    "argv", "device_name", "driver", "cuda", "complete", "resolved_scenario", "resumed",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("1.4"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["fused", "exact", "torch"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@some
@given(metadata=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_metadata_of_other_kinds(run_file, metadata):
    """As a file would have it that another program, or a later version, wrote."""
    path, whole = run_file
    path.write_bytes(whole)
    table = pq.read_table(path)
    stored = json.loads(table.schema.metadata[METADATA_KEY]) | metadata
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(stored)}), path)
    with suppress(InputError):
        read_run(path)
        comes_to_an_end("compare", path)
