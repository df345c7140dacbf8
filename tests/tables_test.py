"""Tests for instructrec_jax/tables.py."""

import csv
import io

from instructrec_jax.tables import Cell, Row, Table


def test_markdown_lines_up_and_escapes_bars():
  table = Table(
    ["", "HR@1"],
    [Row(["a|b", Cell(".500", "±.010")]), Row(["long name", "-"], "paper")],
    title="sequential",
    notes=["of 9"],
  )
  assert (
    table.markdown()
    == """\
### sequential

|           |       HR@1 |
| --------- | ---------: |
| a\\|b      | .500 ±.010 |
| long name |          - |

- of 9"""
  )


def test_a_narrow_column_has_a_valid_ruler():
  ruler = Table(["n", "n"], [Row(["1", "2"])]).markdown().splitlines()[1]
  assert ruler == "| --- | --: |"


def test_csv_is_read_back():
  text = Table(["a", "b"], [Row(['x, "y"', 0.1])], "title", ["note"]).csv()
  assert list(csv.reader(io.StringIO(text, newline=""))) == [
    ["a", "b"],
    ['x, "y"', "0.1"],
  ]
