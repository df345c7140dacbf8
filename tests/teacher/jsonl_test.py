"""Lines of JSON that `vllm run-batch` takes and gives."""

import contextlib
import json
import random
import sqlite3

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.teacher import jsonl
from instructrec_jax.teacher.chat import Status
from instructrec_jax.teacher.jsonl import (
  ResultLine,
  read_answers,
  write_requests,
)
from instructrec_jax.teacher.store import Store

from .batch_server import done
from .samples import billed, make_requests


def _vllm_line(line: dict, text: str = "") -> dict:
  """Answers a line as vllm.entrypoints.openai.run_batch does."""
  assert line["method"] == "POST" and line["url"] == "/v1/chat/completions"
  row = done(line)
  if text:
    row["response"]["body"]["choices"][0]["message"]["content"] = text
  return row


def _write(path, rows) -> None:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rows(store) -> dict[str, tuple[str, str]]:
  """Returns answer and error of each key."""
  with contextlib.closing(sqlite3.connect(store.path)) as db:
    rows = db.execute("SELECT key, answer, error FROM requests").fetchall()
  return {key: (answer, error) for key, answer, error in rows}


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "annotations.sqlite", dataset="d") as store:
    yield store


@pytest.fixture
def questions(tmp_path, store):
  """Five requests, and the lines that ask them."""
  requests = make_requests(5)
  path = tmp_path / "in.jsonl"
  assert write_requests([*requests, requests[0]], path, store=store) == 5
  return requests, [json.loads(line) for line in path.open()]


def test_round_trip_in_any_order_asks_nothing_twice(tmp_path, store, questions):
  requests, lines = questions
  assert [line["body"] for line in lines] == [r.body() for r in requests]
  answers = [_vllm_line(line) for line in lines]
  random.Random(0).shuffle(answers)
  out = tmp_path / "out.jsonl"
  _write(out, answers)
  tally = read_answers(out, requests, store=store)
  assert tally.statuses == {Status.ANSWERED: 5}
  assert (tally.unknown, tally.missing) == (0, 0)
  rows = _rows(store)
  for request in requests:
    assert json.loads(rows[request.key][0]) == {"text": request.user}
  assert billed(store) == (35, 25)
  assert write_requests(requests, tmp_path / "again.jsonl", store=store) == 0
  # Reading the file again changes nothing.
  assert read_answers(out, requests, store=store).unknown == 5
  assert billed(store) == (35, 25)


def test_a_file_has_no_more_bytes_than_the_batch_api_takes(
  tmp_path, store, monkeypatch
):
  requests = make_requests(5)
  size = len(jsonl.request_line(requests[0]))
  for most, wanted in (
    (2 * size, [2, 2, 1]),
    (2 * size - 1, [1] * 5),
    (9, [1] * 5),
  ):
    monkeypatch.setattr(jsonl, "FILE_BYTES", most)
    asked = tmp_path / f"in-{most}-*.jsonl"
    assert write_requests(requests, asked, store=store) == 5
    files = sorted(tmp_path.glob(asked.name))
    assert [len(f.read_bytes().splitlines()) for f in files] == wanted


def test_many_requests_are_several_files(tmp_path, store, monkeypatch):
  monkeypatch.setattr(jsonl, "FILE_REQUESTS", 2)
  requests = make_requests(5)
  asked = tmp_path / "in-*.jsonl"
  assert write_requests(requests, asked, store=store) == 5
  files = sorted(tmp_path.glob("in-*"))
  shards = [[json.loads(line) for line in file.open()] for file in files]
  assert [len(shard) for shard in shards] == [2, 2, 1]
  ids = [line["custom_id"] for shard in shards for line in shard]
  assert ids == [request.key for request in requests]
  for number, shard in enumerate(shards[::-1]):
    answers = [_vllm_line(line) for line in shard[::-1]]
    # The first answer to a request counts.
    answers += [_vllm_line(line, text="later") for line in shard]
    _write(tmp_path / f"out-{number}.jsonl", answers)
  tally = read_answers(tmp_path / "out-*.jsonl", requests[1:], store=store)
  assert tally.statuses == {Status.ANSWERED: 4}
  assert (tally.unknown, tally.missing) == (6, 0)
  rows = _rows(store)
  for request in requests[1:]:
    assert json.loads(rows[request.key][0]) == {"text": request.user}
  with pytest.raises(InputError, match=r"in-00000\.jsonl exists.*--force"):
    write_requests(requests, asked, store=store)
  assert sorted(tmp_path.glob("in-*")) == files
  assert write_requests(requests, asked, store=store, force=True) == 1
  # What is left of more of them would be asked for once more.
  assert [*tmp_path.glob("in-*")] == files[:1]
  files[0].write_text("mine")
  with pytest.raises(InputError, match="not what this command writes"):
    write_requests(requests, asked, store=store, force=True)


def test_each_line_gets_its_own_verdict(tmp_path, store, questions):
  requests, lines = questions
  malformed = _vllm_line(lines[0], text="Here you are: ...")
  refused = {
    "id": "vllm-2",
    "custom_id": lines[1]["custom_id"],
    "response": {"status_code": 400, "request_id": "r", "body": None},
    "error": {"error": {"message": "too long\nby far", "code": 400}},
  }
  no_completion = _vllm_line(lines[2])
  no_completion["response"]["body"] = {"object": "error"}
  stranger = {**_vllm_line(lines[3]), "custom_id": "stranger"}
  out = tmp_path / "out.jsonl"
  _write(out, [malformed, refused, malformed, no_completion, stranger])
  tally = read_answers(out, requests, store=store)
  assert tally.statuses == {Status.MALFORMED: 1, Status.FAILED: 2}
  assert (tally.unknown, tally.missing) == (2, 2)
  rows = _rows(store)
  assert rows[requests[1].key][1] == "too long by far"
  # What failed is asked again, what is malformed is not.
  path = tmp_path / "in.jsonl"
  before = path.read_bytes()
  with pytest.raises(InputError, match=r"in\.jsonl exists already.*--force"):
    write_requests(requests, path, store=store)
  assert path.read_bytes() == before
  assert write_requests(requests, path, store=store, force=True) == 4


@pytest.mark.parametrize(
  "line",
  [
    b'{"custom_id": "a", "resp',
    b"[1]",
    b'{"custom_id": "a"}',
    b'{"custom_id": 3, "response": null, "error": null}',
    b'{"custom_id": "a", "response": "text", "error": null}',
    b'{"custom_id": "a", "response": {"status_code": "x"}, "error": null}',
    b'\xff\xfe{"custom_id"}',
  ],
)
def test_a_broken_line_names_file_and_line(tmp_path, store, questions, line):
  requests, lines = questions
  out = tmp_path / "out.jsonl"
  out.write_bytes(json.dumps(_vllm_line(lines[0])).encode() + b"\n\n" + line)
  with pytest.raises(InputError, match=r"out\.jsonl, line 3: not a line"):
    read_answers(out, requests, store=store)


def test_a_missing_file_is_one_sentence(tmp_path, store):
  with pytest.raises(InputError, match="no such file of answers"):
    read_answers(tmp_path / "out.jsonl", [], store=store)


@pytest.mark.parametrize(
  ("status", "permanent"),
  [(400, True), (404, True), (429, False), (500, False), (None, False)],
)
def test_only_what_may_pass_is_worth_another_try(status, permanent):
  error = {"code": "batch_expired", "message": "no"}
  line = {"custom_id": "a", "response": None, "error": error}
  if status is not None:
    response = {"status_code": status, "body": {"error": error}}
    line.update(response=response, error=None)
  result = ResultLine.parse(json.dumps(line).encode(), where="f")
  answer = result.answer(make_requests(1)[0])
  assert (answer.status, answer.error) == (Status.FAILED, "no")
  assert result.permanent == permanent
