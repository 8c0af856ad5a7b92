"""Metrics on disk: a line a step, cut back at a resume."""

import contextlib
import json

import numpy as np
import pytest

from loop.rows import Rows
from loop.writers.lines import Csv, JsonLines


def _write(writer, *calls):
    with contextlib.closing(writer):
        for rows in calls:
            writer(rows)


def _rows(first_step, values, columns=("loss", "lr")):
    return Rows(first_step, columns, np.asarray(values, np.float64))


def test_json_lines_holds_every_step_exactly(tmp_path):
    """One object a step, floats to the last bit, non-finite numbers as null."""
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    third = float(np.float32(1) / np.float32(3))
    writer(_rows(0, [[third, 0.1], [np.nan, np.inf]]))
    lines = path.read_text().splitlines()  # before close: flushed at each call
    writer.close()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": third, "lr": 0.1},
        {"step": 2, "loss": None, "lr": None},
    ]


def test_json_lines_resumes_without_the_steps_that_come_again(tmp_path):
    """Lines after the checkpoint are cut off, and the file then reads as one uncut run's."""
    path, whole = tmp_path / "cut.jsonl", tmp_path / "whole.jsonl"
    values = np.random.default_rng(0).normal(2, 1, [9, 2])
    _write(JsonLines(whole), _rows(0, values))
    _write(JsonLines(path), _rows(0, values[:7]))
    _write(JsonLines(path, step=4), _rows(4, values[4:]))
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "torn",
    ['{"step": 3, "lo', '{"step": 3, "loss": 1.0, "lr": 2.0}', "3", '{"step": null}', "\0\0"],
)
def test_json_lines_drops_a_line_that_a_kill_tore(tmp_path, torn):
    """A last line without its end is cut off, also where what is there happens to be valid JSON."""
    path = tmp_path / "metrics.jsonl"
    _write(JsonLines(path), _rows(0, [[1.5, 2], [2.5, 2]]))
    kept = path.read_bytes()
    with path.open("a") as file:
        file.write(torn)
    JsonLines(path, step=100).close()
    assert path.read_bytes() == kept


def test_csv_has_one_header_and_resumes(tmp_path):
    """The header is written once; a resume cuts later steps and a torn line off."""
    path, whole = tmp_path / "cut.csv", tmp_path / "whole.csv"
    values = np.random.default_rng(1).normal(-1, 3, [12, 2])
    _write(Csv(whole), _rows(0, values))
    _write(Csv(path), _rows(0, values[:11]))
    with path.open("a") as file:
        file.write("12,0.")
    _write(Csv(path, step=5), _rows(5, values[5:]))
    assert path.read_bytes() == whole.read_bytes()
    header, *lines = path.read_text().splitlines()
    assert header == "step,loss,lr"
    assert [[float(cell) for cell in line.split(",")[1:]] for line in lines] == values.tolist()


def test_csv_refuses_other_columns(tmp_path):
    """Columns that changed would put numbers under the wrong names."""
    path = tmp_path / "metrics.csv"
    with pytest.raises(ValueError, match="the header has"):
        _write(Csv(path), _rows(0, [[1, 2]]), _rows(1, [[1, 2]], ("loss", "accuracy")))
    with pytest.raises(ValueError, match="the header has"):
        _write(Csv(path, step=1), _rows(1, [[1, 2]], ("lr", "loss")))


@pytest.mark.parametrize(("make", "name"), [(Csv, "rows.csv"), (JsonLines, "rows.jsonl")])
def test_without_a_step_the_first_rows_are_where_the_run_is(make, name, tmp_path):
    """A resume loses no line of before, and until it writes the file is as it was."""
    path, whole = tmp_path / "cut" / name, tmp_path / name
    path.parent.mkdir()
    values = np.random.default_rng(2).normal(2, 1, [9, 2])
    _write(make(whole), _rows(0, values))
    _write(make(path), _rows(0, values[:7]))
    before = path.read_bytes()
    resumed = make(path)
    assert path.read_bytes() == before
    _write(resumed, _rows(4, values[4:6]), _rows(6, values[6:]))
    assert path.read_bytes() == whole.read_bytes()
    make(path).close()
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", [b"\0", b"\xff", b"[" * 100_000, b"{}"])
def test_a_damaged_line_loses_no_other(damage, tmp_path, caplog):
    """The file is put aside whole, its sound lines are kept, and a line says so."""
    path = tmp_path / "m.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 3}) for step in range(1, 8)]
    whole = "\n".join([*lines[:3], "damaged", *lines[4:], ""]).encode().replace(b"damaged", damage)
    path.write_bytes(whole)
    JsonLines(path, step=6).close()
    assert path.read_text().splitlines() == [*lines[:3], *lines[4:6]]
    assert (tmp_path / "m.jsonl.damaged-1").read_bytes() == whole
    assert "line 4 is damaged" in caplog.text


def test_a_torn_last_line_is_no_damage(tmp_path, caplog):
    """A kill leaves such a line; it is cut off, as later steps are, and nothing is said."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    JsonLines(path, step=2).close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert not caplog.text
    assert len(list(tmp_path.iterdir())) == 1
