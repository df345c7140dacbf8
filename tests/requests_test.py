"""Tests for instructrec_jax/requests.py."""

import contextlib
import dataclasses
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import (
  count_requests,
  read_requests,
  write_requests,
)

REQUESTS = [
  RankingRequest(
    request_id="a",
    instruction="Pick one",
    candidates=("x", "y; z"),
    target=1,
    user=7,
    history_items=(3, 4),
    candidate_items=(5, 6),
  ),
  RankingRequest(request_id="b", instruction="Rank", candidates=("é",)),
]


def jsonl(folder, *rows):
  path = folder / "requests.jsonl"
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


def test_parquet_gives_back_what_was_written(tmp_path):
  path = tmp_path / "requests.parquet"
  assert write_requests(path, REQUESTS) == 2
  assert list(read_requests(path)) == REQUESTS
  assert count_requests(path) == 2


def test_reading_streams_and_stops_at_the_limit(tmp_path):
  path = tmp_path / "requests.parquet"
  write_requests(
    path,
    (
      dataclasses.replace(request, request_id=f"{request.request_id}{n}")
      for n in range(3000)
      for request in REQUESTS
    ),
  )
  assert count_requests(path) == 6000
  assert len(list(read_requests(path, limit=4097))) == 4097


def test_json_needs_only_instruction_and_candidates(tmp_path):
  path = jsonl(
    tmp_path,
    {"instruction": "one", "candidates": ["x"]},
    "",
    {"instruction": "two", "candidates": ["y", "y"], "target": 1},
  )
  first, second = read_requests(path)
  assert (first.request_id, first.target) == ("1", None)
  assert (second.request_id, second.target) == ("2", 1)
  assert count_requests(path) == 2


GOOD = {"instruction": "one", "candidates": ["x"]}


@pytest.mark.parametrize(
  ("row", "says"),
  [
    ('{"instruction": ', "line 2: not JSON"),
    ({"instruction": "one"}, "line 2: `candidates` must be a list"),
    (GOOD | {"candidates": []}, "line 2: `candidates` must be a list"),
    (GOOD | {"candidates": ["x", " "]}, "line 2: a candidate is empty"),
    (GOOD | {"candidates": [1]}, "line 2: a candidate is empty or no text"),
    ({"candidates": ["x"]}, "line 2: `instruction` must be a text"),
    (GOOD | {"instruction": 3}, "line 2: `instruction` must be a text"),
    (GOOD | {"instruction": " "}, "line 2: `instruction` .* not empty"),
    (GOOD | {"user": "u1"}, "line 2: `user` is 'u1'"),
    (GOOD | {"history_items": ["i"]}, "line 2: `history_items` must be a list"),
    (GOOD | {"candidate_items": 3}, "line 2: `candidate_items` must be a list"),
    (GOOD | {"target": 1}, "line 2: `target` is 1"),
    (GOOD | {"target": True}, "line 2: `target` is True"),
    (GOOD | {"candidate_items": [1, 2]}, "line 2: 2 candidate_items for 1"),
    (GOOD | {"titles": []}, "line 2: unknown column 'titles'"),
    (GOOD | {"candidates": ["x\ud83d"]}, r"line 2: '\\ud83d' is half of a"),
    (GOOD | {"instruction": "\udc00"}, "line 2: .* is half of a character"),
    (GOOD | {"query": "\udc00"}, "line 2: .* is half of a character"),
    (["x"], "line 2: an object"),
    (GOOD | {"candidates": ["x", "\u200b"]}, "line 2: a candidate is empty"),
    (GOOD | {"candidates": ["\u3164\ufe0f"]}, "line 2: a candidate is empty"),
    (GOOD | {"instruction": "\ufeff\n"}, "line 2: `instruction` .* not empty"),
    (GOOD | {"candidates": ["x"] * 1_000_001}, "1,000,001 candidates; at most"),
    (GOOD | {"target": float("nan")}, "line 2: `target` is nan"),
    (GOOD | {"user": -1}, "line 2: `user` is -1, but must be a number from 0"),
    (GOOD | {"user": 1 << 31}, "line 2: `user` is 2147483648"),
    (GOOD | {"history_items": [-1]}, "`history_items` must be a list"),
    (GOOD | {"candidate_items": [True]}, "`candidate_items` must be a list"),
    (GOOD | {"request_id": {"a": 1}}, "line 2: `request_id` is {'a': 1}"),
    (GOOD | {"request_id": True}, "line 2: `request_id` is True"),
    (GOOD | {"request_id": " "}, "line 2: `request_id` is ' '"),
    (GOOD | {"request_id": "\udc00"}, "line 2: .* is half of a character"),
    (GOOD | {"request_id": 1}, "line 2: the `request_id` '1' is another"),
    ("[" * 100_000, "line 2: not JSON .*recursion"),
    ('{"candidates": ["x"], "candidates": ["y"]}', "a key comes twice"),
    ('{"a": "' + "x" * 200_000 + '"}', "line 2: unknown column 'a'"),
  ],
)
def test_a_wrong_line_is_named(tmp_path, row, says):
  path = jsonl(tmp_path, GOOD, row)
  with pytest.raises(InputError, match=says):
    list(read_requests(path))


def test_files_that_are_none(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    list(read_requests(tmp_path / "none.jsonl"))
  text = tmp_path / "requests.txt"
  text.write_text("{}")
  with pytest.raises(InputError, match="by suffix"):
    count_requests(text)
  broken = tmp_path / "requests.parquet"
  write_requests(broken, REQUESTS)
  broken.write_bytes(broken.read_bytes()[:-20])
  with pytest.raises(InputError, match="truncated"):
    list(read_requests(broken))


@pytest.mark.parametrize(
  "content", [b"\xff\xfe", b"\0" * 100, b'{"a": "caf\xe9"}']
)
def test_bytes_that_are_no_json(tmp_path, content):
  path = tmp_path / "requests.jsonl"
  path.write_bytes(json.dumps(GOOD).encode() + b"\n" + content + b"\n")
  with pytest.raises(InputError, match="line 2: not JSON"):
    list(read_requests(path))


def test_a_mark_of_utf_8_and_carriage_returns_are_no_harm(tmp_path):
  path = tmp_path / "requests.jsonl"
  path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
  assert len(list(read_requests(path))) == count_requests(path) == 1


def test_a_folder_and_a_pipe_are_told_as_that(tmp_path):
  folder, pipe = tmp_path / "a.jsonl", tmp_path / "b.parquet"
  folder.mkdir()
  os.mkfifo(pipe)
  for path, what in ((folder, "is a directory"), (pipe, "is a pipe")):
    for read in (count_requests, lambda path: list(read_requests(path))):
      with pytest.raises(InputError, match=what):
        read(path)


def test_a_parquet_file_damaged_anywhere_is_told_or_read(tmp_path):
  path = tmp_path / "requests.parquet"
  write_requests(path, REQUESTS)
  whole = path.read_bytes()
  for place in range(0, len(whole), 7):
    damaged = bytearray(whole)
    damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with contextlib.suppress(InputError):
      list(read_requests(path))


def test_parquet_of_another_schema(tmp_path):
  path = tmp_path / "requests.parquet"
  column = pa.array(["x"])
  for names, says in (
    (["instruction", "instruction"], "two of its columns have the same name"),
    (["instruction", "title"], "row 1: unknown column 'title'"),
    (["instruction", "candidates"], "row 1: `candidates` must be a list"),
  ):
    pq.write_table(pa.Table.from_arrays([column] * 2, names=names), path)
    with pytest.raises(InputError, match=says):
      list(read_requests(path))


def test_a_failing_source_leaves_no_file(tmp_path):
  def failing():
    yield REQUESTS[0]
    raise RuntimeError

  with pytest.raises(RuntimeError):
    write_requests(tmp_path / "requests.parquet", failing())
  assert list(tmp_path.iterdir()) == []
