"""Tests for instructrec_jax/data/lines.py."""

import gzip

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


def test_strict_stops_at_the_first_broken_line(tmp_path):
  path = write(tmp_path / "numbers", b"1\nx\n2\n")
  with pytest.raises(InputError, match="numbers:2: .*--strict"):
    read(path, lines.BrokenLines(strict=True))


def test_nothing_but_broken_lines_is_the_wrong_format(tmp_path):
  path = write(tmp_path / "numbers", b"x\n" * 5000 + b"1\n")
  with pytest.raises(InputError, match=r"not one number \(line 1: .*--format"):
    read(path)


def test_an_empty_or_missing_file_and_a_folder_are_refused(tmp_path):
  for content in (b"", b"\n\n"):
    with pytest.raises(InputError, match="it is empty"):
      read(write(tmp_path / "numbers", content))
  with pytest.raises(InputError, match="no such file"):
    read(tmp_path / "absent")
  with pytest.raises(InputError, match="is a directory"):
    read(tmp_path)


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
    (3, ["x\ny", "1"]),
    (5, ["z", "2"]),
  ]


def test_csv_that_is_no_text_is_refused(tmp_path):
  path = write(tmp_path / "t.csv", b"a,b\n\xff\xfe\n")
  with pytest.raises(InputError, match="not a csv file in UTF-8"):
    list(lines.numbered_csv_rows(path))
