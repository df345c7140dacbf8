"""Tests for instructrec_jax/scoring/stream.py."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from instructrec_jax import locks
from instructrec_jax.errors import InputError
from instructrec_jax.requests import write_requests
from instructrec_jax.scoring import stream
from instructrec_jax.scoring.reranker import T5Ranker


@pytest.fixture
def requests_file(tmp_path, requests):
  path = tmp_path / "requests.parquet"
  write_requests(path, requests)
  return path


def test_scores_and_ranks_are_those_of_the_ranker(
  tmp_path, model_dir, requests_file, requests
):
  out = tmp_path / "scores.parquet"
  count = stream.score_file(
    requests=requests_file, model=model_dir, out=out, step="best", chunk=16
  )
  rows = pq.read_table(out).to_pylist()
  assert count == len(rows) == len(requests)
  expected = T5Ranker.load(model_dir).score(requests)
  for row, request, values in zip(rows, requests, expected, strict=True):
    assert row["request_id"] == request.request_id
    np.testing.assert_allclose(row["scores"], values, rtol=1e-5)
    ranks = stream.average_ranks(np.array(row["scores"]))
    assert row["ranks"] == ranks.tolist()
    assert row["target_rank"] == ranks[0]
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "requests.parquet",
    "scores.parquet",
  ]


@pytest.mark.parametrize(
  ("scores", "ranks"),
  [
    ([3.0, 1.0, 2.0], [1, 3, 2]),
    ([1.0, 1.0, 0.0], [1.5, 1.5, 3]),
    ([0.0], [1]),
    ([2.0, 2.0, 2.0], [2, 2, 2]),
  ],
)
def test_ties_share_their_average_rank(scores, ranks):
  assert stream.average_ranks(np.array(scores)).tolist() == ranks


def test_ranks_of_a_whole_catalogue_take_little_memory():
  scores = np.random.default_rng(0).integers(0, 50_000, 200_000).astype(float)
  ranks = stream.average_ranks(scores)
  assert ranks.sum() == 200_000 * 200_001 / 2
  some = slice(0, 50)
  above = (scores > scores[some, None]).sum(1)
  equal = (scores == scores[some, None]).sum(1)
  np.testing.assert_array_equal(ranks[some], above + (equal + 1) / 2)


def test_requests_of_many_candidates_are_scored_a_few_at_a_time(
  tmp_path, model_dir, requests_file, requests, monkeypatch
):
  monkeypatch.setattr(stream, "_CANDIDATES_AT_ONCE", 10)
  together = []
  write = stream._write_part

  def note(path, members, *args):
    together.append([len(request.candidates) for request in members])
    write(path, members, *args)

  monkeypatch.setattr(stream, "_write_part", note)
  out = tmp_path / "scores.jsonl"
  stream.score_file(requests=requests_file, model=model_dir, out=out)
  assert sum(map(len, together)) == len(requests)
  assert len(together) > 10 and all(sum(counts) <= 10 for counts in together)
  lines = list(map(json.loads, out.read_text().splitlines()))
  assert [line["request_id"] for line in lines] == [
    request.request_id for request in requests
  ]


def test_a_killed_run_goes_on_and_ends_alike(tmp_path, model_dir, requests):
  # Later chunks would have other shapes if they were the first to be scored.
  requests = sorted(requests, key=lambda r: -len(r.instruction))
  path = tmp_path / "requests.parquet"
  write_requests(path, requests)
  straight, killed = tmp_path / "straight.jsonl", tmp_path / "killed.jsonl"
  options = {"requests": path, "model": model_dir, "chunk": 4}
  stream.score_file(out=straight, **options)
  program = textwrap.dedent(f"""
    import pathlib, time
    from instructrec_jax.scoring import stream
    write = stream._write_part
    def slowly(*args):
      write(*args)
      time.sleep(0.5)
    stream._write_part = slowly
    stream.score_file(
      requests=pathlib.Path({str(path)!r}),
      model=pathlib.Path({str(model_dir)!r}),
      out=pathlib.Path({str(killed)!r}),
      chunk=4,
    )
  """)
  process = subprocess.Popen([sys.executable, "-c", program])
  parts = tmp_path / ".killed.jsonl.parts"
  deadline = time.monotonic() + 120
  while len(list(parts.glob("[0-9]*.jsonl"))) < 3:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not killed.exists()
  marked = parts / "000000.jsonl"
  marked.write_text(marked.read_text().replace('_id":', '_id" :', 1))
  # Earlier versions told where the model was.
  run = json.loads((parts / "run.json").read_text())
  (parts / "run.json").write_text(json.dumps({**run, "model": "/elsewhere"}))
  stream.score_file(out=killed, **options)
  text = killed.read_text()
  assert text.count('_id" :') == 1
  assert text.replace('_id" :', '_id":') == straight.read_text()


def begin(out, options, monkeypatch):
  """Scores, but is interrupted after two chunks."""
  write = stream._write_part

  def fail(path, *args):
    if path.name.startswith(".000002"):
      raise KeyboardInterrupt
    write(path, *args)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(stream, "_write_part", fail)
    stream.score_file(out=out, **options)


def test_a_run_of_another_normalisation_is_refused(
  tmp_path, model_dir, requests_file, requests, monkeypatch
):
  out = tmp_path / "scores.jsonl"
  options = {"requests": requests_file, "model": model_dir, "chunk": 8}
  begin(out, {**options, "normalisation": "mean"}, monkeypatch)
  with pytest.raises(InputError, match="with --normalisation mean, or pass"):
    stream.score_file(out=out, **options)
  parts = tmp_path / ".scores.jsonl.parts"
  assert len(list(parts.glob("0*.jsonl"))) == 2
  stream.score_file(out=out, force=True, **options)
  lines = list(map(json.loads, out.read_text().splitlines()))
  assert len(lines) == len(requests)
  assert {line["normalisation"] for line in lines} == {"sum"}


def test_parquet_names_the_normalisation(tmp_path, model_dir, requests_file):
  out = tmp_path / "scores.parquet"
  stream.score_file(
    requests=requests_file,
    model=model_dir,
    out=out,
    limit=4,
    normalisation="byte",
  )
  assert pq.read_schema(out).metadata[b"normalisation"] == b"byte"


def test_parts_of_other_requests_are_not_reused(
  tmp_path, model_dir, requests_file, requests
):
  out = tmp_path / "scores.jsonl"
  parts = tmp_path / ".scores.jsonl.parts"
  parts.mkdir()
  (parts / "run.json").write_text('{"requests": "others"}')
  (parts / "000000.jsonl").write_text("stale\n")
  stream.score_file(requests=requests_file, model=model_dir, out=out)
  assert len(out.read_text().splitlines()) == len(requests)


def test_bad_input(tmp_path, model_dir, requests_file):
  taken, empty, late = (
    tmp_path / f"{name}.jsonl" for name in ("taken", "empty", "late")
  )
  taken.write_text("mine")
  empty.write_text("\n")
  line = json.dumps({"instruction": "pick", "candidates": ["rope"]})
  late.write_text(f'{line}\n{line}\n{{"instruction": "pick"}}\n')
  before = sorted(tmp_path.iterdir())
  good = {"requests": requests_file, "model": model_dir}
  good["out"] = tmp_path / "s.jsonl"
  for wrong, said in (
    ({"out": taken}, "exists already"),
    ({"out": tmp_path / "scores.csv"}, ".parquet or .jsonl"),
    ({"limit": 0}, "limit is 0"),
    ({"chunk": 0}, "chunk is 0"),
    ({"batch_tokens": 0}, "batch_tokens is 0"),
    ({"normalisation": "max"}, "no normalisation 'max'"),
    ({"model": tmp_path}, "not a model folder"),
    ({"step": 9}, "no checkpoint of step 9"),
    ({"requests": empty}, "there is no request"),
    ({"requests": late, "chunk": 2}, "line 3: `candidates`"),
  ):
    with pytest.raises(InputError, match=said):
      stream.score_file(**good | wrong)
  assert taken.read_text() == "mine"
  assert sorted(tmp_path.iterdir()) == before


def test_a_bad_last_line_is_told_before_anything_is_scored(
  tmp_path, model_dir, monkeypatch
):
  path = tmp_path / "a.jsonl"
  good = '{"instruction": "next?", "candidates": ["a", "b"]}\n'
  path.write_text(good * 9 + '{"instruction"')
  monkeypatch.setattr(stream.T5Ranker, "load", None)
  with pytest.raises(InputError, match="line 10"):
    stream.score_file(
      requests=path, model=model_dir, out=tmp_path / "b.jsonl", chunk=2
    )
  assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_shards_end_as_one_process_does(tmp_path, model_dir, requests, suffix):
  # Later chunks would have other shapes if they were the first to be scored.
  requests = sorted(requests, key=lambda r: -len(r.instruction))
  path = tmp_path / "requests.parquet"
  write_requests(path, requests)
  options = {"requests": path, "model": model_dir, "chunk": 16}
  one, out = tmp_path / f"one{suffix}", tmp_path / f"out{suffix}"
  total = stream.score_file(out=one, **options)
  counts = []
  for number in (3, 1, 3, 2):
    assert not out.exists()
    counts.append(stream.score_file(out=out, shard=(number, 3), **options))
  assert counts[0] == counts[2] and sum(counts[1:]) == total
  assert out.read_bytes() == one.read_bytes()
  assert {each.name for each in tmp_path.iterdir()} == {
    path.name, one.name, out.name
  }  # fmt: skip
  with pytest.raises(InputError, match="exists already"):
    stream.score_file(out=out, shard=(1, 3), **options)


def test_more_shards_than_chunks_are_joined_too(
  tmp_path, model_dir, requests_file, requests
):
  out = tmp_path / "out.jsonl"
  for number in (1, 2, 3):
    stream.score_file(
      requests=requests_file, model=model_dir, out=out, shard=(number, 3)
    )
  assert len(out.read_text().splitlines()) == len(requests)


def test_a_run_killed_while_it_joined_is_made_up_for(
  tmp_path, model_dir, requests_file, monkeypatch
):
  options = {"requests": requests_file, "model": model_dir, "chunk": 16}
  one, out = tmp_path / "one.jsonl", tmp_path / "out.jsonl"
  stream.score_file(out=one, **options)
  stream.score_file(out=out, shard=(1, 2), **options)
  replace, moved = os.replace, []

  def die(source, target):
    if str(target).endswith(".done"):
      if moved:
        raise KeyboardInterrupt
      moved.append(target)
    replace(source, target)

  monkeypatch.setattr(os, "replace", die)
  with pytest.raises(KeyboardInterrupt):
    stream.score_file(out=out, shard=(2, 2), **options)
  monkeypatch.undo()
  assert moved and not out.exists()
  stream.score_file(out=out, shard=(1, 2), **options)
  assert out.read_bytes() == one.read_bytes()
  assert len(list(tmp_path.iterdir())) == 3


def test_a_shard_waits_while_another_begins_or_joins(
  tmp_path, model_dir, requests_file
):
  out = tmp_path / "out.jsonl"
  with contextlib.ExitStack() as held:
    held.enter_context(locks.writing(tmp_path / "out.jsonl.shards"))
    end = threading.Timer(0.5, held.pop_all().close)
    end.start()
    stream.score_file(
      requests=requests_file, model=model_dir, out=out, shard=(1, 1)
    )
    end.join()
  assert {path.name for path in tmp_path.iterdir()} == {
    requests_file.name, out.name
  }  # fmt: skip


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_shard_is_run_again_while_others_end(
  when, tmp_path, model_dir, requests_file, monkeypatch
):
  """What they join is not what this one writes; it joins all, or is refused."""
  out = tmp_path / "out.jsonl"
  run = functools.partial(
    stream.score_file, requests=requests_file, model=model_dir, out=out
  )
  lock, score = locks.writing, stream._score_parts
  if when == "before":
    run(shard=(1, 2))

    def meanwhile(path, **options):
      if path.name.endswith(".2-of-2.parts"):
        monkeypatch.undo()
        run(shard=(2, 2))
      return lock(path, **options)

    monkeypatch.setattr(locks, "writing", meanwhile)
    with pytest.raises(InputError, match="exists already"):
      run(shard=(2, 2))
  else:
    run(shard=(2, 2))

    def meanwhile(*arguments, **options):
      monkeypatch.undo()
      run(shard=(1, 2))
      assert not out.exists()
      return score(*arguments, **options)

    monkeypatch.setattr(stream, "_score_parts", meanwhile)
    run(shard=(2, 2))
  whole = tmp_path / "whole.jsonl"
  run(out=whole)
  assert out.read_bytes() == whole.read_bytes()
  assert {path.name for path in tmp_path.iterdir()} == {
    requests_file.name, out.name, whole.name
  }  # fmt: skip


@pytest.mark.parametrize("shard", [None, (1, 1)])
@pytest.mark.parametrize("name", ["parts", "done"])
@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_somebody_else_calls_unfinished_stays(
  kind, name, shard, tmp_path, model_dir, requests_file
):
  out = tmp_path / "out.jsonl"
  parts = (
    stream.parts_of(out) if shard is None else stream.shard_parts(out, shard)
  )
  left, mine = parts.with_suffix(f".{name}"), tmp_path / "mine"
  mine.mkdir()
  (mine / "notes").write_text("mine")
  if kind == "folder":
    mine.rename(left)
  elif kind == "link":
    left.symlink_to("mine")
  else:
    left.write_text("mine")
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(InputError, match="has the name of unfinished work"):
    stream.score_file(
      requests=requests_file, model=model_dir, out=out, shard=shard
    )
  assert sorted(tmp_path.rglob("*")) == before


def test_of_parts_only_our_own_are_removed(tmp_path):
  ours, theirs = (tmp_path / f".out.jsonl.{n}-of-4.parts" for n in (1, 2))
  for folder in (ours, theirs):
    folder.mkdir()
    for name in ("000000.jsonl", ".000001.partial.jsonl", "run.json"):
      (folder / name).touch()
  (ours / ".whole.partial.json").touch()
  (theirs / "notes").touch()
  stream._remove_unjoined(tmp_path / "out.jsonl", [])
  assert [*tmp_path.iterdir()] == [theirs]


def test_what_others_wrote_meanwhile_is_not_replaced(
  tmp_path, model_dir, requests_file, monkeypatch
):
  out = tmp_path / "out.jsonl"
  plan = {"requests": requests_file, "model": model_dir, "out": out}
  score = stream.T5Ranker.score

  def meanwhile(*arguments):
    out.write_text("{}")
    return score(*arguments)

  monkeypatch.setattr(stream.T5Ranker, "score", meanwhile)
  with pytest.raises(InputError, match="exists already"):
    stream.score_file(shard=(1, 1), **plan)
  assert out.read_text() == "{}"
  out.unlink()
  monkeypatch.setattr(stream.T5Ranker, "score", None)
  assert stream.score_file(shard=(1, 1), **plan)
  assert out.exists()


def test_shards_of_other_options_are_not_joined(
  tmp_path, model_dir, requests_file
):
  out = tmp_path / "out.jsonl"
  options = {"requests": requests_file, "model": model_dir, "out": out}
  stream.score_file(shard=(1, 2), **options)
  with pytest.raises(InputError, match="shard 1 of 2 is of other requests"):
    stream.score_file(shard=(2, 2), limit=5, **options)
  assert not out.exists()
  stream.score_file(shard=(2, 2), **options)
  assert out.exists()


@pytest.mark.parametrize(
  ("damaged", "complaint"),
  [
    (lambda lines: [*lines[:-1], lines[-1][:9]], "000000.jsonl: what was"),
    (lambda lines: ["{}\n", *lines[1:]], "000000.jsonl: what was"),
    (lambda lines: lines[1:], "1-of-2.parts: 31 requests are finished"),
    (None, "1-of-2.parts: 0 requests are finished"),
  ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_damaged_parts_are_refused_and_made_anew(
  tmp_path, model_dir, requests_file, suffix, damaged, complaint
):
  one, out = tmp_path / f"one{suffix}", tmp_path / f"out{suffix}"
  options = {"requests": requests_file, "model": model_dir, "chunk": 32}
  stream.score_file(out=one, **options)
  stream.score_file(out=out, shard=(1, 2), **options)
  (part,) = (tmp_path / f".{out.name}.1-of-2.parts").glob("*.jsonl")
  if damaged:
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(damaged(lines)))
  else:
    part.unlink()
  with pytest.raises(InputError, match=re.escape(complaint)):
    stream.score_file(out=out, shard=(2, 2), **options)
  assert not out.exists()
  part.unlink(missing_ok=True)
  stream.score_file(out=out, shard=(1, 2), **options)
  assert out.read_bytes() == one.read_bytes()
  assert {*tmp_path.iterdir()} == {requests_file, one, out}


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0), (1, 20_000)])
def test_there_is_no_such_shard(tmp_path, model_dir, requests_file, shard):
  with pytest.raises(InputError, match="a number from 1 to that of the shards"):
    stream.score_file(
      requests=requests_file,
      model=model_dir,
      out=tmp_path / "out.jsonl",
      shard=shard,
    )
  assert [path.name for path in tmp_path.iterdir()] == ["requests.parquet"]


def test_a_model_is_known_at_any_path(
  tmp_path, model_dir, requests_file, monkeypatch
):
  options = {"requests": requests_file, "out": tmp_path / "out.jsonl"}
  stream.score_file(model=model_dir, shard=(1, 2), **options)
  run = tmp_path / ".out.jsonl.1-of-2.parts" / "run.json"
  # As earlier versions wrote it.
  run.write_text(json.dumps(json.loads(run.read_text()) | {"model": "/a"}))
  mounted = tmp_path / "mounted"
  mounted.symlink_to(model_dir)
  with monkeypatch.context() as patch:
    patch.setattr(stream.T5Ranker, "score", None)
    stream.score_file(model=mounted, shard=(1, 2), **options)
  stream.score_file(model=mounted, shard=(2, 2), **options)
  assert options["out"].exists()


@pytest.mark.parametrize("shards", [[None], [(1, 2), (2, 2)]])
def test_no_parts_of_another_number_of_shards_stay(
  tmp_path, model_dir, requests_file, shards
):
  out = tmp_path / "out.jsonl"
  names = ("1-of-3.parts", "2-of-3.parts", "1-of-9.done", "a-of-b.parts")
  folders = [tmp_path / f".out.jsonl.{name}" for name in names]
  for folder in folders:
    folder.mkdir()
  # All that a run left which was killed when it had removed the parts.
  lock = tmp_path / "..out.jsonl.2-of-7.parts.lock"
  lock.touch()
  with locks.writing(folders[1]):
    for shard in shards:
      assert all(folder.exists() for folder in folders)
      stream.score_file(
        requests=requests_file, model=model_dir, out=out, shard=shard
      )
  assert [folder.exists() for folder in folders] == [False, True, False, True]
  assert not lock.exists()
