"""Tests for instructrec_jax/data/tables.py."""

import contextlib
import datetime
import decimal
import re

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import lines, tables
from instructrec_jax.errors import InputError

DAY = datetime.datetime(2014, 1, 1, tzinfo=datetime.UTC)
SECONDS = int(DAY.timestamp())


@pytest.fixture
def read(tmp_path):
  def read_table(reader, content, *, broken=None, **names):
    path = tmp_path / "table"
    is_csv = isinstance(content, str)
    if is_csv:
      path.write_text(content, encoding="utf-8", newline="")
    else:
      content.write_parquet(path)
    frames = reader(
      path,
      format="csv" if is_csv else "parquet",
      columns=tables.Columns(**names),
      broken=broken or lines.BrokenLines(),
    )
    return pl.concat(list(frames)).drop("image", strict=False).rows()

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


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("types", [False, True])
def test_the_header_shows_the_delimiter_and_may_have_recboles_types(
  read, delimiter, types
):
  text = "user_id:token,item_id:token,timestamp:float,title:token_seq\n"
  text = text if types else re.sub(r":\w+", "", text)
  text = (text + "u,i,5,A b\n").replace(",", delimiter)
  assert read(tables.read_reviews, text) == [("u", "i", 5, None, "", "")]
  assert read(tables.read_items, text) == [("i", "A b", [])]
  assert read(tables.read_items, text, delimiter=delimiter) == [
    ("i", "A b", [])
  ]


def test_the_comma_is_taken_where_it_gives_the_columns(read):
  text = "item_id,title,a;b;c\n1,T;U,2\n"
  assert read(tables.read_items, text) == [("1", "T;U", [])]


def test_a_delimiter_and_a_category_separator_may_be_named(read):
  text = "item_id^title^categories\n1^T^A > B, C\n"
  names = {"delimiter": "^", "category_separator": " > "}
  assert read(tables.read_items, text, **names) == [("1", "T", ["A", "B, C"])]
  tab = text.replace("^", "\t")
  assert read(tables.read_items, tab, **names | {"delimiter": "tab"}) == [
    ("1", "T", ["A", "B, C"])
  ]


@pytest.mark.parametrize(
  ("names", "why"),
  [
    ({"delimiter": ""}, "the delimiter is ''"),
    ({"delimiter": "::"}, "the delimiter is '::'"),
    ({"delimiter": '"'}, "no letter, digit or quote"),
    ({"delimiter": "a"}, "no letter, digit or quote"),
    ({"category_separator": ""}, "the category separator is empty"),
    ({"user": "item_id"}, "'item_id' is to be the user and the item"),
    ({"title": "item_id"}, "'item_id' is to be the item and the title"),
    ({"time": "rating"}, "'rating' is to be the time and the rating"),
    ({"user": "text"}, "'text' is to be the user and the text"),
  ],
)
def test_columns_that_cannot_be(names, why):
  with pytest.raises(InputError, match=why):
    tables.Columns(**names)


@pytest.mark.parametrize(
  ("text", "why"),
  [
    ("", "it is empty; a header and rows are expected"),
    ("\n \n", "it is empty; a header and rows are expected"),
    ("item_id,title\n", "there is nothing in it"),
    ("item_id,title,title\n1,T,U\n", "2 columns are called 'title'"),
    ("item_id:token,title:token,title:float\n", "2 columns are called 'title'"),
    ("item_id,name\n1,T\n", "among item_id, name; name it with --title-col"),
    ("item_id::title\n", "name the character between columns with --delim"),
    ("user_id,item_id,timestamp\n", "the columns of --interactions: name the"),
    ("\x1b[31m,b\n", r"among \\x1b\[31m, b;"),
    ("c," * 5000 + "\n", "4989 more"),
    ("x" * 140_000 + "\n", "table:1: no header: field larger than"),
    ('"item_id,title\n1,T\n', "table:1: no header: a quote"),
  ],
)
def test_a_header_that_cannot_be_read(read, text, why):
  with pytest.raises(InputError, match=why) as told:
    read(tables.read_items, text)
  assert len(str(told.value)) < 900


@pytest.mark.parametrize(
  ("time", "why"),
  [
    ("", "there is no time"),
    ("nan", "the time nan is no number of seconds"),
    ("-inf", "the time -inf is no number of seconds"),
    ("1e400", "the time inf is no number of seconds"),
    ("9" * 400, "as seconds the timestamp 999.* is after the year 9999"),
    ("9" * 5000, "the time inf is no number of seconds"),
    ("-1", "the time -1 is before 1970"),
    ("253402300800", "is after the year 9999: divide milliseconds by 1000"),
    ("2014-02-30", "the time '2014-02-30' is no number of seconds and no date"),
    ("01.03.2014", "no date such as 2021-08-11 or 2021-08-11 00:56:54"),
    ("yesterday", "the time 'yesterday' is no number of seconds and no date"),
    ("1969-12-31", "the time -86400 is before 1970"),
    ("2014-02-03-2014", "no date such as"),
    ("2014-02-03+01:00", "no date such as"),
    ("2014-02-03x18:30:00", "no date such as"),
    ("2014-02-03 24:00:00", "no date such as"),
    ("2014-03-01 23:59:60", "the time '2014-03-01 23:59:60' is no number"),
    ("1_0", "the time '1_0' is no number of seconds"),
    ("x" * 5000, "the time 'xxx"),
  ],
)
def test_times_that_are_no_times_are_counted(read, time, why):
  broken = lines.BrokenLines()
  text = f"user_id,item_id,timestamp\n1,2,0\n1,3,{time}\n"
  assert len(read(tables.read_reviews, text, broken=broken)) == 1
  (told,) = broken.as_json().values()
  assert told["count"] == 1
  assert re.search(f"table:3: .*{why}", told["first"][0])
  assert len(told["first"][0]) < 400


@pytest.mark.parametrize(
  ("time", "seconds"),
  [
    ("2014-01-01", SECONDS),
    ("2014-01-01 00:00:07", SECONDS + 7),
    ("2014-01-01T00:00:07", SECONDS + 7),
    ("2014-01-01T00:00:07Z", SECONDS + 7),
    ("2014-01-01 00:00:07 UTC", SECONDS + 7),
    ("2014-01-01 00:00:07.9", SECONDS + 7),
    ("2014-01-01 01:00:07+01:00", SECONDS + 7),
    ("2013-12-31 20:00:07 -0400", SECONDS + 7),
    ("2013-12-31T20:00:07.5-04", SECONDS + 7),
    ("1970-01-01", 0),
  ],
)
def test_dates_are_read_as_seconds(read, time, seconds):
  row = ("u", "i", seconds, None, "", "")
  text = f"user_id,item_id,timestamp\nu,i,{time}\n"
  assert read(tables.read_reviews, text) == [row]
  # Among rows of another form, a block of which is not read at once.
  assert read(tables.read_reviews, f"{text}u,i,7\n")[0] == row


def test_ratings_that_are_no_numbers_are_counted(read):
  ratings = ["5", "nan", "", "inf", "1e300", "9" * 400, "x"]
  text = "user_id,item_id,timestamp,rating\n" + "".join(
    f"u,i,{n},{rating}\n" for n, rating in enumerate(ratings)
  )
  broken = lines.BrokenLines()
  rows = read(tables.read_reviews, text, broken=broken)
  assert [row[3] for row in rows] == [5, None, None]
  assert broken.as_json().popitem()[1]["count"] == 4


def test_a_block_of_dates_is_read_at_once():
  times = ["2014-01-01", "2014-01-01 00:00:07", "2014-01-01T00:00:07"]
  rows = [["u", "i", time, "", "", ""] for time in times]
  frame = tables._review_block(list(enumerate(rows)), 6, [0, 1, 2, 3, 4, 5])
  assert frame is not None
  assert frame["timestamp"].to_list() == [SECONDS, SECONDS + 7, SECONDS + 7]


@pytest.mark.parametrize(
  ("times", "seconds"),
  [
    (pa.array([DAY], pa.date32()), 1388534400),
    (pa.array(["2014-01-01"]), 1388534400),
    (pa.array([DAY], pa.timestamp("us", "Europe/Paris")), 1388534400),
    (pa.array([1388534400000000001], pa.timestamp("ns")), 1388534400),
    (pa.array([decimal.Decimal("1388534400.5")]), 1388534400),
    (pa.array([1388534400.5]), 1388534400),
    (pa.array(["1388534400"]).dictionary_encode(), 1388534400),
  ],
)
def test_parquet_times_of_any_type(tmp_path, times, seconds):
  table = {"user_id": ["u"], "item_id": [1.0], "timestamp": times}
  table["weird"] = pa.array([{"a": [{"b": 1}]}])
  pq.write_table(pa.table(table), tmp_path / "t")
  (frame,) = tables.read_reviews(
    tmp_path / "t",
    format="parquet",
    columns=tables.Columns(),
    broken=lines.BrokenLines(),
  )
  assert frame.rows() == [("u", "1", seconds, None, "", "")]


@pytest.mark.parametrize(
  ("name", "values", "why"),
  [
    ("user_id", pa.array([True]), "of type bool, not of text or whole numbers"),
    ("user_id", pa.array([b"u"]), "of type binary"),
    ("item_id", pa.array([["i"]]), "of type list"),
    ("item_id", pa.array([{"a": 1}]), "of type struct"),
    ("timestamp", pa.array([5], pa.duration("s")), "not of numbers or times"),
    ("rating", pa.array([DAY]), "of type timestamp.*, not of numbers"),
    ("text", pa.array([5]), "of type int64, not of text"),
    ("user_id", pa.array([1.5]), "the user 1.5 is not a string"),
    ("timestamp", pa.nulls(1), "there is no time"),
    (
      "user_id",
      pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
      "damaged, or of values that cannot be read",
    ),
  ],
)
def test_parquet_of_other_types_is_refused(tmp_path, name, values, why):
  table = {"user_id": ["u"], "item_id": ["i"], "timestamp": [5], name: values}
  pq.write_table(pa.table(table), tmp_path / "t")
  with pytest.raises(InputError, match=f"t: .*{why}"):
    list(
      tables.read_reviews(
        tmp_path / "t",
        format="parquet",
        columns=tables.Columns(),
        broken=lines.BrokenLines(),
      )
    )


def test_parquet_with_a_column_twice_is_refused(tmp_path):
  column = pa.array(["x"])
  names = ["item_id", "title", "title"]
  pq.write_table(
    pa.Table.from_arrays([column] * 3, names=names), tmp_path / "t"
  )
  with pytest.raises(InputError, match="2 columns are called 'title'"):
    list(
      tables.read_items(
        tmp_path / "t",
        format="parquet",
        columns=tables.Columns(),
        broken=lines.BrokenLines(),
      )
    )


def test_parquet_damaged_anywhere_is_told_or_read(tmp_path):
  path = tmp_path / "t"
  table = {"item_id": [f"i{n}" for n in range(50)], "title": ["T"] * 50}
  pq.write_table(pa.table(table), path)
  whole = path.read_bytes()
  for place in range(0, len(whole), 9):
    damaged = bytearray(whole)
    damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with contextlib.suppress(InputError):
      list(
        tables.read_items(
          path,
          format="parquet",
          columns=tables.Columns(),
          broken=lines.BrokenLines(),
        )
      )


def test_two_chunks_are_as_one(read, monkeypatch):
  monkeypatch.setattr(lines, "_BLOCK_BYTES", 7)
  text = "item_id,title\r\n" + '1,"T\r\nU"\r\n2,V\r\n' * 9
  assert len(read(tables.read_items, text)) == 18


CELLS = st.sampled_from(
  ["", " ", "1", "-7", "+5", "007", "1_0", "٣", "5.0", "1e3", "nan", "-inf"]
  + ["253402300799", "253402300800", "9" * 30, "-" + "9" * 19, "x", "a\u200b"]
  + ["2014-01-01", "2014-01-01 00:00:07", "2014-01-01T00:00:07", "2014-02-30"]
  + ["0000-01-01", "1969-12-31", "2014-01-01 24:00:00", "2014-01-01 23:60:00"]
  + ["2014-01-01 23:59:60", "٢014-01-01", "2014-01-01 "]
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
      timestamp=tables._time(row[2]),
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
