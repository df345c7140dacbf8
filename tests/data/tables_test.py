"""Tests for instructrec_jax/data/tables.py."""

import datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import lines, tables
from instructrec_jax.errors import InputError


@pytest.fixture
def read(tmp_path):
  def read_table(reader, content, *, broken=None, **names):
    path = tmp_path / "table"
    is_csv = isinstance(content, str)
    if is_csv:
      path.write_text(content, encoding="utf-8")
    else:
      content.write_parquet(path)
    frames = reader(
      path,
      format="csv" if is_csv else "parquet",
      columns=tables.Columns(**names),
      broken=broken or lines.BrokenLines(),
    )
    return pl.concat(list(frames)).rows()

  return read_table


def test_csv_with_the_columns_that_the_user_names(read):
  text = 'when,who,what,stars\n5,u,"a",4.5\n6.0,v,b,\n'
  names = {"user": "who", "item": "what", "time": "when", "rating": "stars"}
  assert read(tables.read_reviews, text, **names) == [
    ("u", "a", 5, 4.5, "", ""),
    ("v", "b", 6, None, "", ""),
  ]


def test_rating_text_and_categories_are_optional(read):
  text = "user_id,item_id,timestamp\n1,2,3\n"
  assert read(tables.read_reviews, text) == [("1", "2", 3, None, "", "")]
  assert read(tables.read_items, "item_id,title\n2,A &amp; B\n") == [
    ("2", "A & B", [])
  ]
  text = "user_id,item_id,timestamp,summary,text\n1,2,3,good,it works\n"
  (row,) = read(tables.read_reviews, text)
  assert row[4:] == ("good", "it works")


def test_csv_joins_categories_by_a_bar(read):
  text = "item_id,title,categories\n1,T,A|B&amp;C|\n2,,\n"
  assert read(tables.read_items, text) == [
    ("1", "T", ["A", "B&C"]),
    ("2", "", []),
  ]


def test_parquet_of_numbers_times_and_lists(read):
  day = datetime.datetime(1970, 1, 2)
  frame = pl.DataFrame(
    {"user_id": [7], "item_id": ["x"], "timestamp": [day], "rating": [3]}
  )
  assert read(tables.read_reviews, frame) == [("7", "x", 86400, 3, "", "")]
  frame = pl.DataFrame(
    {"item_id": ["x", "y"], "title": ["T", None], "categories": [["A"], None]}
  )
  assert read(tables.read_items, frame) == [("x", "T", ["A"]), ("y", "", [])]


@pytest.mark.parametrize("line", ["1,2", "1,2,3,4", "1,2,x", "1,2,", ",2,3"])
def test_broken_csv_rows_are_counted(read, line):
  broken = lines.BrokenLines()
  text = f"user_id,item_id,timestamp\n1,2,3\n{line}\n"
  rows = read(tables.read_reviews, text, broken=broken)
  assert len(rows) == 1
  assert "table:3: " in broken.as_json().popitem()[1]["first"][0]


def test_broken_parquet_rows_are_counted(read):
  frame = pl.DataFrame(
    {"user_id": ["a", None], "item_id": ["x", "y"], "timestamp": [1, 2]}
  )
  broken = lines.BrokenLines()
  assert len(read(tables.read_reviews, frame, broken=broken)) == 1
  assert "table:2: " in broken.as_json().popitem()[1]["first"][0]


@pytest.mark.parametrize("name", ["user", "item", "time", "rating"])
def test_an_unknown_column_is_named(read, name):
  text = "user_id,item_id,timestamp\n1,2,3\n"
  with pytest.raises(InputError, match="no column 'oops' among user_id, item_"):
    read(tables.read_reviews, text, **{name: "oops"})


def test_parquet_that_is_none_is_refused(tmp_path):
  (tmp_path / "table").write_text("user_id\n")
  for path, why in (("table", "not a Parquet file"), ("none", "no such file")):
    with pytest.raises(InputError, match=why):
      list(
        tables.read_items(
          tmp_path / path,
          format="parquet",
          columns=tables.Columns(),
          broken=lines.BrokenLines(),
        )
      )


CELLS = st.sampled_from(
  ["", " ", "1", "-7", "+5", "007", "1_0", "٣", "5.0", "1e3", "nan", "-inf"]
  + ["253402300799", "253402300800", "9" * 30, "-" + "9" * 19, "x", "a\u200b"]
)


@given(
  st.lists(st.lists(CELLS, min_size=4, max_size=4), min_size=1, max_size=3)
)
def test_a_block_gives_what_its_rows_give(rows):
  rows = [[*row, "", "text"] for row in rows]
  places = [0, 1, 2, 3, 4, 5]
  frame = tables._review_block(list(enumerate(rows)), 6, places)
  if frame is None:
    return
  expected = [
    lines.review_row(
      *row[:2],
      timestamp=tables._number("time", row[2]),
      rating=tables._number("rating", row[3]),
      summary=row[4],
      text=row[5],
    )
    for row in rows
  ]
  assert frame.equals(
    pl.DataFrame(expected, schema=lines.REVIEW_SCHEMA, orient="row")
  )
  assert frame["timestamp"].max() < 253402300800


def test_good_rows_are_converted_as_a_block():
  rows = [(2, ["u", "i", "5", "4.5"]), (3, ["v", "j", "0", ""])]
  frame = tables._review_block(rows, 4, [0, 1, 2, 3, None, None])
  assert frame is not None
  assert frame.rows() == [
    ("u", "i", 5, 4.5, "", ""),
    ("v", "j", 0, None, "", ""),
  ]
