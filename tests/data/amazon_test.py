"""Tests for instructrec_jax/data/amazon.py."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import amazon, lines
from instructrec_jax.errors import InputError

OLD_REVIEW = {
  "reviewerID": "U1",
  "asin": "B1",
  "unixReviewTime": 1393545600,
  "overall": 5.0,
  "summary": "good",
  "reviewText": "it works",
}
NEW_REVIEW = {
  "user_id": "U1",
  "parent_asin": "B1",
  "asin": "variant",
  "timestamp": 1588687728923,
  "rating": 4.0,
  "title": "good",
  "text": "it works",
}
METADATA = {
  "amazon2014": (
    """{'asin': 'B1', 'title': "21' &quot;C&quot;", """
    """'categories': [['A', 'B'], ['A', 'C']]}"""
  ),
  "amazon2018": json.dumps(
    {
      "asin": "B1",
      "title": "<b>21' &quot;C&quot;</b>",
      "category": ["A", "B", "C"],
    }
  ),
  "amazon2023": json.dumps(
    {
      "parent_asin": "B1",
      "title": '21\' "C"',
      "categories": ["A", "B", "C"],
      "main_category": "Z",
    }
  ),
}


@pytest.fixture
def read(tmp_path):
  def read_lines(reader, rows, *, format, broken=None):
    path = tmp_path / "file.json"
    text = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("\n".join(text), encoding="utf-8")
    frames = reader(path, format=format, broken=broken or lines.BrokenLines())
    return pl.concat(list(frames)).drop("image", strict=False).rows()

  return read_lines


@pytest.mark.parametrize("format", ["amazon2014", "amazon2018"])
def test_reviews_until_2018(read, format):
  assert read(amazon.read_reviews, [OLD_REVIEW], format=format) == [
    ("U1", "B1", 1393545600, 5.0, "good", "it works")
  ]


def test_reviews_of_2023_are_of_the_parent_item_and_in_milliseconds(read):
  broken = lines.BrokenLines()
  rows = [NEW_REVIEW, *(NEW_REVIEW | {"timestamp": t} for t in ("1", True))]
  assert read(
    amazon.read_reviews, rows, format="amazon2023", broken=broken
  ) == [("U1", "B1", 1588687728, 4.0, "good", "it works")]
  (told,) = broken.as_json().values()
  assert told["count"] == 2


@pytest.mark.parametrize("format", amazon.FORMATS)
def test_metadata_of_every_format(read, format):
  rows = read(amazon.read_items, [METADATA[format]], format=format)
  assert rows == [("B1", '21\' "C"', ["A", "B", "C"])]


@pytest.mark.parametrize(
  ("format", "field", "address"),
  [
    (
      "amazon2014",
      {"imUrl": "http://a.example/1.jpg"},
      "http://a.example/1.jpg",
    ),
    (
      "amazon2018",
      {"imageURL": [], "image": ["https://a.example/2"]},
      "https://a.example/2",
    ),
    (
      "amazon2018",
      {"imageURL": ["https://a.example/3"]},
      "https://a.example/3",
    ),
    (
      "amazon2023",
      {"images": [{"hi_res": None, "large": "https://a.example/4"}, {}]},
      "https://a.example/4",
    ),
    ("amazon2023", {"images": [{}]}, ""),
    ("amazon2014", {"imUrl": "javascript:alert(1)"}, ""),
    ("amazon2014", {"imUrl": 'http://a.example/"x'}, ""),
    ("amazon2014", {"imUrl": {"x": [1]}}, ""),
    ("amazon2014", {}, ""),
  ],
)
def test_an_items_picture_is_one_web_address(tmp_path, format, field, address):
  path = tmp_path / "meta.json"
  own = "parent_asin" if format == "amazon2023" else "asin"
  path.write_text(json.dumps({own: "B1", "title": "T", **field}))
  (frame,) = amazon.read_items(path, format=format, broken=lines.BrokenLines())
  assert frame["image"].to_list() == [address]


@pytest.mark.parametrize("title", [None, "", " ", ["x"]])
def test_an_item_without_a_title_has_the_empty_one(read, title):
  rows = [{"asin": "B1", "title": title}]
  assert read(amazon.read_items, rows, format="amazon2018") == [("B1", "", [])]


def test_text_and_rating_may_be_absent(read):
  row = {k: OLD_REVIEW[k] for k in ("reviewerID", "asin", "unixReviewTime")}
  rows = read(amazon.read_reviews, [row], format="amazon2018")
  assert rows == [("U1", "B1", 1393545600, None, "", "")]


@pytest.mark.parametrize(
  "line",
  [
    "{",
    "[1]",
    "null",
    '{"asin": "B1", "unixReviewTime": 1}',
    *(
      json.dumps(OLD_REVIEW | change)
      for change in (
        {"reviewerID": ""},
        {"asin": 5},
        {"unixReviewTime": "x"},
        {"unixReviewTime": None},
        {"unixReviewTime": True},
        {"unixReviewTime": 1e30},
        {"overall": "5"},
        {"reviewText": ["it"]},
      )
    ),
    *(
      json.dumps(OLD_REVIEW | {"unixReviewTime": time})
      for time in (-1, 1393545600000, float("nan"), float("inf"))
    ),
    json.dumps(OLD_REVIEW | {"overall": 1e300}),
    json.dumps(OLD_REVIEW | {"asin": " "}),
    "[" * 100_000,
    '{"a":' * 100_000,
    json.dumps([OLD_REVIEW]),
    # A lone surrogate is no text.
    '{"reviewerID": "\\ud800", "asin": "B1", "unixReviewTime": 1}',
  ],
)
def test_a_broken_review_is_counted_and_skipped(read, line):
  broken = lines.BrokenLines()
  rows = read(
    amazon.read_reviews,
    [OLD_REVIEW, line],
    format="amazon2018",
    broken=broken,
  )
  assert len(rows) == 1
  (told,) = broken.as_json().values()
  assert told["count"] == 1
  assert "file.json:2: " in told["first"][0]


@pytest.mark.parametrize(
  "line",
  [
    "{'asin': 'B1', 'title': __import__('os').getcwd()}",
    "{'asin': 'B1'",
    "{'asin': '\\ud800'}",
    "(" * 10_000,
    "{'asin': 'B2', 'categories': " + "[" * 100_000 + "]" * 100_000 + "}",
    '{"asin": "B2", "categories": ' + "[" * 1010 + "]" * 1010 + "}",
    "-" * 100_000 + "1",
    "1+" * 100_000 + "1",
    "'B1'",
    "{'title': 'no id'}",
    "{'asin': 'B1', 'categories': 5}",
    json.dumps(OLD_REVIEW),
  ],
)
def test_metadata_that_is_no_literal_is_never_run(read, line):
  broken = lines.BrokenLines()
  rows = read(
    amazon.read_items,
    [METADATA["amazon2014"], line],
    format="amazon2014",
    broken=broken,
  )
  assert len(rows) == 1
  assert len(broken.as_json()) == 1


@given(st.text(st.sampled_from("ab'\"\\{}:,\t\né"), max_size=20))
def test_a_literal_is_parsed_as_python_would(text):
  record = {"asin": text, "related": {"bought": [text, "b"]}, "price": 1.5}
  assert amazon._parse_literal(repr(record).encode()) == record


def test_a_title_with_a_lone_surrogate_is_cleaned(read):
  line = r"{'asin': 'B1', 'title': 'a \ud83d b', 'categories': [['\ud800c']]}"
  rows = read(amazon.read_items, [line], format="amazon2014")
  assert rows == [("B1", "a b", ["c"])]


@pytest.mark.parametrize(
  ("time", "why"),
  [
    (1588687728, "before 1973: multiply seconds by 1000"),
    (1588687728923000, "after the year 9999: divide microseconds by 1000"),
    (-5, "before 1970"),
  ],
)
def test_milliseconds_are_told_from_seconds(read, time, why):
  broken = lines.BrokenLines()
  rows = [NEW_REVIEW, NEW_REVIEW | {"timestamp": time}]
  rows = read(amazon.read_reviews, rows, format="amazon2023", broken=broken)
  assert len(rows) == 1
  assert why in broken.as_json().popitem()[1]["first"][0]


def test_a_byte_that_is_no_text_is_told_by_its_line(tmp_path):
  good = json.dumps(OLD_REVIEW).encode() + b"\n"
  path = tmp_path / "file.json"
  path.write_bytes(good * 150_000 + b'{"asin": "\xe9"}\n' + good)
  broken = lines.BrokenLines()
  list(amazon.read_reviews(path, format="amazon2018", broken=broken))
  assert broken.first(path) == "150001: not JSON (the byte 0xe9 is not UTF-8)"


@pytest.mark.parametrize(
  "text", [json.dumps([OLD_REVIEW] * 9), json.dumps([OLD_REVIEW], indent=1)]
)
def test_a_file_that_is_one_array_is_told_what_is_expected(read, text):
  with pytest.raises(InputError, match="one JSON object a line is expected"):
    read(amazon.read_reviews, [text], format="amazon2018")


@pytest.mark.parametrize("format", amazon.FORMATS)
def test_swapped_files_are_noticed(read, format):
  review = NEW_REVIEW if format == "amazon2023" else OLD_REVIEW
  with pytest.raises(InputError, match=f"not one {format} review"):
    read(amazon.read_reviews, [METADATA[format]], format=format)
  with pytest.raises(InputError, match=f"not one {format} metadata"):
    read(amazon.read_items, [review], format=format)


REVIEWS = [OLD_REVIEW | {"reviewerID": f"U{n}"} for n in range(3)]


def raw(**change):
  """A review's line, with some of its fields as JSON text."""
  fields = {name: json.dumps(value) for name, value in OLD_REVIEW.items()}
  pairs = [f"{json.dumps(k)}: {v}" for k, v in {**fields, **change}.items()]
  return "{" + ", ".join(pairs) + "}"


ODD = [
  raw(reviewerID="5"),
  raw(reviewerID="null"),
  raw(reviewerID='" x"'),
  raw(reviewerID='"a b"'),
  raw(reviewerID='"é"'),
  raw(reviewerID=r'"\u200b"'),
  raw(asin=r'"\udc00"'),
  raw(asin=r'"\ud83d\ude00"'),
  raw(other=r'"\udc00"'),
  raw(other="[" * 1023 + "]" * 1023),
  raw(other="[" * 1024 + "]" * 1024),
  raw(other='[{"a":' * 512 + "1" + "}]" * 512),
  raw(other="NaN"),
  raw(other="[-Infinity]"),
  raw(other='"NaN, Infinity"'),
  raw(other='", NaN"'),
  raw(overall="NaN"),
  raw(overall="null"),
  raw(overall="5"),
  raw(overall="1e400"),
  raw(overall="1e10"),
  raw(overall='"5"'),
  raw(overall="4.123456789012345678"),
  raw(unixReviewTime="1393545600.0"),
  raw(unixReviewTime="1.3e9"),
  raw(unixReviewTime="true"),
  raw(unixReviewTime="253402300800"),
  raw(unixReviewTime="-1"),
  raw(unixReviewTime="-0"),
  raw(unixReviewTime="0"),
  raw(unixReviewTime="99999999999999999999"),
  raw(unixReviewTime="01"),
  raw(summary="null"),
  raw(summary="1"),
  raw(reviewText="[]"),
  raw(reviewText=r'"\u0000 \t"'),
  raw(reviewText='"a\tb"'),
  raw() + raw(),
  # As many objects as lines.
  raw() + raw() + '\n{"x": {}\n, ' + raw()[1:],
  raw() + raw() + "\n" + raw()[:-1] + ', "x":\n{}}',
  raw() + " " + raw(),
  raw() + "x",
  " " + raw() + " ",
  raw()[:-1] + ', "asin": "B2"}',
  raw()[:-1] + ', "\\u0061sin": "B2"}',
  raw()[:-1] + ', "x": 1, "x": 2}',
  raw()[:-1] + ', "x": {"asin": "B3"}}',
  raw()[:-1] + ",}",
  raw() + "\r",
  "",
  " ",
  "{}",
  "[]",
  "null",
  raw()[:30],
  "{",
  "}",
  raw().replace('"', "'"),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_block_is_read_as_its_lines_are(tmp_path, monkeypatch, odd, end):
  """Whatever Arrow takes, the check of each line takes alike."""
  path = tmp_path / "file.json"
  good = [json.dumps(review) for review in REVIEWS]
  text = "\n".join([*good, odd, *good]) + end
  path.write_text(text, encoding="utf-8", newline="")
  read = []
  for _ in range(2):
    broken = lines.BrokenLines()
    frames = list(amazon.read_reviews(path, format="amazon2018", broken=broken))
    read.append((pl.concat(frames).rows(), broken.as_json()))
    monkeypatch.setattr(amazon, "_review_block", lambda *_: None)
  assert read[0] == read[1]
  assert read[0][0][:3] == [
    (f"U{n}", "B1", 1393545600, 5.0, "good", "it works") for n in range(3)
  ]


def test_strict_tells_a_broken_line_before_a_later_cut(tmp_path, monkeypatch):
  monkeypatch.setattr(lines, "_BLOCK_BYTES", 1)
  monkeypatch.setattr(lines, "_BUFFER_BYTES", 64)
  path = tmp_path / "file.json.gz"
  content = gzip.compress("\n".join([raw(), "{", raw()]).encode())
  path.write_bytes(content[:-1])
  with pytest.raises(InputError, match="json.gz:2: "):
    list(
      amazon.read_reviews(
        path, format="amazon2018", broken=lines.BrokenLines(strict=True)
      )
    )
  with pytest.raises(InputError, match="cut short"):
    list(
      amazon.read_reviews(path, format="amazon2018", broken=lines.BrokenLines())
    )


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\n", b"\r\n", b"\r"])
def test_nothing_but_marks_and_ends_is_no_review(tmp_path, content):
  path = tmp_path / "file.json"
  path.write_bytes(content)
  broken = lines.BrokenLines()
  with pytest.raises(InputError, match="there is nothing in it"):
    list(amazon.read_reviews(path, format="amazon2018", broken=broken))


@pytest.mark.parametrize(
  "bytes_", [b"caf\xe9", b"\xed\xa0\x80", b"\xff", "é".encode()]
)
def test_no_field_may_be_other_than_utf_8(tmp_path, monkeypatch, bytes_):
  path = tmp_path / "file.json"
  line = raw(other='"@"').encode().replace(b"@", bytes_)
  path.write_bytes(raw().encode() + b"\n" + line)
  read = []
  for _ in range(2):
    broken = lines.BrokenLines()
    frames = amazon.read_reviews(path, format="amazon2018", broken=broken)
    read.append((pl.concat(list(frames)).rows(), broken.as_json()))
    monkeypatch.setattr(amazon, "_review_block", lambda *_: None)
  assert read[0] == read[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_good_blocks_are_not_read_line_by_line(tmp_path, monkeypatch, end):
  path = tmp_path / "file.json"
  path.write_text(end.join([*map(json.dumps, REVIEWS), ""]), newline="")
  monkeypatch.setattr(amazon, "_parse_json", None)
  (frame,) = amazon.read_reviews(
    path, format="amazon2018", broken=lines.BrokenLines()
  )
  assert frame.height == 3
