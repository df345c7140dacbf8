"""Tests for instructrec_jax/data/lines.py."""

import gzip
import os

import polars as pl
import pytest

from instructrec_jax.data import lines
from instructrec_jax.errors import InputError

SCHEMA = pl.Schema({"number": pl.Int64})


def write(path, content, *, zipped=False):
  path.write_bytes(gzip.compress(content) if zipped else content)
  return path


def read(path, broken=None):
  frames = lines.frames(
    path,
    ((None, block) for block in lines.line_blocks(path)),
    convert=lambda line: (int(line),),
    schema=SCHEMA,
    what="number",
    broken=broken or lines.BrokenLines(),
  )
  return pl.concat(list(frames))["number"].to_list()


@pytest.mark.parametrize("zipped", [False, True])
def test_gzip_is_told_by_its_first_bytes_not_its_name(tmp_path, zipped):
  path = write(tmp_path / "numbers.gz", b"1\n\n2\n3", zipped=zipped)
  assert read(path) == [1, 2, 3]


def test_broken_lines_are_counted_and_the_first_are_told(tmp_path):
  path = write(tmp_path / "numbers", b"1\n" + b"x\n" * 7 + b"2\n")
  broken = lines.BrokenLines()
  assert read(path, broken) == [1, 2]
  (told,) = broken.as_json().values()
  assert told["count"] == 7
  assert len(told["first"]) == 5
  assert told["first"][0].startswith(f"{path}:2: invalid literal")


def test_blocks_that_are_converted_ahead_stay_in_order():
  blocks = [lines.LineBlock(number, b"x") for number in range(50)]
  converted = lines.converted_ahead(iter(blocks), lambda block: block.first)
  assert list(converted) == [(block.first, block) for block in blocks]


def test_strict_stops_at_the_first_broken_line(tmp_path):
  path = write(tmp_path / "numbers", b"1\nx\n2\n")
  with pytest.raises(InputError, match="numbers:2: .*--strict"):
    read(path, lines.BrokenLines(strict=True))


def test_nothing_but_broken_lines_is_the_wrong_format(tmp_path):
  path = write(tmp_path / "numbers", b"x\n" * 5000 + b"1\n")
  with pytest.raises(InputError, match=r"not one number \(line 1: .*x"):
    read(path)


def test_an_empty_or_missing_file_and_a_folder_are_refused(tmp_path):
  for content in (b"", b"\n\n", b"\xef\xbb\xbf"):
    with pytest.raises(InputError, match="there is nothing in it"):
      read(write(tmp_path / "numbers", content))
  with pytest.raises(InputError, match="no such file"):
    read(tmp_path / "absent")
  with pytest.raises(InputError, match="is a directory"):
    read(tmp_path)


@pytest.mark.parametrize(
  ("content", "what"),
  [
    (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack it"),
    (b"\xff\xfe1\x00", "text in UTF-16: save it in UTF-8"),
    ("user,item\n".encode("utf-16-le"), "text in UTF-16: save it in UTF-8"),
    ("user,item\n".encode("utf-16-be"), "text in UTF-16: save it in UTF-8"),
    (b"<!DOCTYPE html>", "a web page: download the file again"),
    (b"PAR1", "a Parquet file: pass --format parquet"),
    (gzip.compress(b"1\n", mtime=0), "gzip within gzip: unpack it once"),
    (b"name".ljust(257, b"\0") + b"ustar", "a tar archive"),
  ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_another_kind_are_told_by_name(
  tmp_path, content, what, zipped
):
  path = write(tmp_path / "numbers", content, zipped=zipped)
  if content[:2] == b"\x1f\x8b" and not zipped:
    assert read(path) == [1]
    return
  with pytest.raises(InputError, match=f"numbers is {what}"):
    read(path)


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", "/dev/zero"):
    with pytest.raises(InputError, match="is a pipe or a device"):
      read(path)


def test_a_mark_of_utf_8_is_no_part_of_the_first_line(tmp_path):
  assert read(write(tmp_path / "n", b"\xef\xbb\xbf1\r\n2\r\n")) == [1, 2]


def test_a_file_that_is_one_long_line_is_not_read_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(lines, "_BLOCK_BYTES", 10)
  monkeypatch.setattr(lines, "_LINE_LIMIT", 1000)
  path = write(tmp_path / "n", b"1\n2\n" + b"3" * 2000)
  with pytest.raises(InputError, match=r"n:3: a line of more than .* MiB"):
    read(path)


@pytest.mark.parametrize("cut", [3, 40, -1, -6, None])
def test_a_truncated_or_corrupt_gzip_is_refused(tmp_path, cut):
  whole = bytearray(gzip.compress(b"".join(b"%d\n" % n for n in range(5000))))
  if cut is None:
    whole[len(whole) // 2] ^= 0xFF
  path = write(tmp_path / "numbers.gz", bytes(whole[:cut]))
  with pytest.raises(InputError, match="cut short or corrupt"):
    read(path)


def test_csv_rows_know_their_lines(tmp_path):
  path = write(tmp_path / "t.csv", b'\xef\xbb\xbfa,b\n"x\ny",1\n\nz,2\n')
  assert list(lines.numbered_csv_rows(path)) == [
    (1, ["a", "b"]),
    (2, ["x\ny", "1"]),
    (5, ["z", "2"]),
  ]


def csv_rows(folder, content):
  """Returns rows by line, and the reason of those that are broken."""
  path = write(folder / "t.csv", content)
  return {
    number: row.reason if isinstance(row, lines.BrokenRow) else row
    for number, row in lines.numbered_csv_rows(path)
  }


@pytest.mark.parametrize("before", [0, 1, 150_000])
@pytest.mark.parametrize("quotes", [b"", b'"q",2\n'])
def test_a_byte_that_is_no_text_breaks_its_own_line(tmp_path, before, quotes):
  start = b"a,b\n" + quotes + b"x,1\n" * before
  rows = csv_rows(tmp_path, start + b"caf\xe9,2\nz,3\n")
  number = start.count(b"\n") + 1
  assert rows.pop(number) == (
    "the byte 0xe9 is not UTF-8: save the file in UTF-8"
  )
  assert rows.pop(number + 1) == ["z", "3"]
  assert len(rows) == number - 1
  assert all(len(row) == 2 for row in rows.values())


def test_a_wrong_byte_within_a_quoted_field_is_told_by_its_line(tmp_path):
  rows = csv_rows(tmp_path, b'a,b\n"x\ny\xff\n",1\nz,2\n')
  assert "0xff" in rows.pop(3)
  assert rows == {1: ["a", "b"], 5: ["z", "2"]}


@pytest.mark.parametrize("rest", [10, 200_000])
def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path, rest):
  rows = csv_rows(tmp_path, b'a,b\n"x,1\n' + b"y,2\n" * rest)
  assert 'a quote (") is opened and not closed' in rows.pop(2)
  assert list(rows)[1:] == list(range(3, rest + 3))
  assert list(rows.values())[1:] == [["y", "2"]] * rest


def test_a_quote_that_the_next_field_closes_swallows_nothing(tmp_path):
  rows = csv_rows(tmp_path, b'a,b\nx,"good\ny,"nice"\nz,"3"\nw,"')
  assert "not closed" in rows.pop(2)
  assert "not closed" in rows.pop(5)
  assert rows == {1: ["a", "b"], 3: ["y", "nice"], 4: ["z", "3"]}


def test_quotes_within_a_line_are_read_as_ever(tmp_path):
  rows = csv_rows(tmp_path, b'a,b\n12" disc,1\n"12" disc",2\n"a ""b""",3\n')
  assert list(rows.values())[1:] == [
    ['12" disc', "1"],
    ['12 disc"', "2"],
    ['a "b"', "3"],
  ]


def test_a_field_that_is_too_long_is_told_as_that(tmp_path):
  rows = csv_rows(tmp_path, b"a,b\n" + b"x" * 131_073 + b",1\nz,2\n")
  assert rows.pop(2) == "field larger than field limit (131072)"
  assert rows == {1: ["a", "b"], 3: ["z", "2"]}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_any_end_of_line_ends_a_row(tmp_path, end):
  rows = csv_rows(tmp_path, end.join([b"a,b", b'x\0,"1"', b"y,2"]))
  assert list(rows.values()) == [["a", "b"], ["x\0", "1"], ["y", "2"]]
