"""Files of our own formats, damaged or of another form, are one sentence."""

import errno
import json
import random
import sqlite3

import numpy as np
import polars as pl
import pytest

from instructrec_jax import parquet, requests, storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.cli.main import disk_trouble
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.teacher.store import Store
from instructrec_jax.text.vocabulary import Vocabulary

FORM = {"rows": int, "lengths": {"inputs": int}, "shares": {str: float}}
GOOD = {"rows": 3, "lengths": {"inputs": 4}, "shares": {"a": 1, "b": 0.5}}


def test_json_of_the_form_is_read(tmp_path):
  storage.write_json(tmp_path / "a.json", GOOD)
  assert storage.read_json(tmp_path / "a.json", FORM) == GOOD


@pytest.mark.parametrize(
  ("text", "says"),
  [
    (b"[]", "the file is .*, where an object is expected"),
    (b'{"rows": 3}', "there is no lengths in it"),
    ({"rows": True}, "rows is True, where a whole number"),
    ({"rows": float("nan")}, "rows is nan, where a whole number"),
    ({"lengths": {"inputs": "4"}}, "lengths.inputs is '4'"),
    ({"shares": {"a": None}}, "shares.a is None, where a number"),
    (b"[" * 100_000, "not valid JSON"),
    (b"1" * 5000, "not valid JSON"),
    (b'{"rows": \xff}', "not valid JSON"),
  ],
)
def test_json_of_another_form_is_refused(text, says, tmp_path):
  path = tmp_path / "a.json"
  if isinstance(text, dict):
    text = json.dumps(GOOD | text).encode()
  path.write_bytes(text)
  with pytest.raises(InputError, match=says) as refused:
    storage.read_json(path, FORM)
  assert str(path) in str(refused.value)


def damages(content, *, flips=20):
  rng = random.Random(0)
  yield from (b"", b"text\n", content[: len(content) // 2], content[:-1])
  for _ in range(flips):
    damaged = bytearray(content)
    damaged[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    yield bytes(damaged)


def test_no_damage_is_a_traceback(tmp_path):
  """A reader refuses it in a sentence, or does not see it."""
  rows = [
    RankingRequest(str(n), "pick", ("a", "b"), target=0) for n in range(9)
  ]
  requests.write_requests(tmp_path / "requests.parquet", rows)
  frame = pl.DataFrame({"user": [1, 2], "titles": [["a"], []]})
  frame.write_parquet(tmp_path / "table.parquet")
  safetensors_file.write_file(
    tmp_path / "w.safetensors", {"a": (2,)}, "float32", lambda _: np.ones(2)
  )
  with Store(tmp_path / "store.sqlite", dataset="x") as store:
    store.add_subjects([])
  columns = {"user": int, "titles": [str]}
  readers = {
    "requests.parquet": lambda path: list(requests.read_requests(path)),
    "table.parquet": lambda path: parquet.read(path, columns, remedy="again"),
    "w.safetensors": safetensors_file.open_file,
    "store.sqlite": lambda path: Store(path, dataset="x").count(),
  }
  for name, read in readers.items():
    path = tmp_path / name
    content = path.read_bytes()
    for damaged in damages(content):
      path.write_bytes(damaged)
      try:
        read(path)
      except InputError as error:
        assert str(path) in str(error)
    path.write_bytes(content)
    read(path)


def test_columns_of_another_kind_are_refused(tmp_path):
  path = tmp_path / "[a].parquet"
  table = {"user": [1, None], "title": ["a", "b"], "names": [["a"], []]}
  pl.DataFrame(table).write_parquet(path)
  assert parquet.read(path, {"names": [str]}, remedy="r").height == 2
  assert parquet.read(path, {"title": str}, remedy="r").height == 2
  wrong = ({"user": int}, {"title": int}, {"title": [str]}, {"x": None})
  for columns in (*wrong, {"names": str}, {"names": [int]}):
    with pytest.raises(InputError, match=r"a\].parquet: .*: again"):
      parquet.read(path, columns, remedy="again")


def test_a_dataset_folder_of_other_users_or_items_is_refused(tmp_path):
  folder = prepare(
    format="synthetic", users=30, min_count=2, out=tmp_path / "shop"
  ).path
  path = folder / "interactions.parquet"
  frame = pl.read_parquet(path)
  for change in (pl.col("item") + 999, pl.col("user") * -1):
    frame.with_columns(change.cast(pl.Int32)).write_parquet(path)
    with pytest.raises(InputError, match="interactions.parquet: users or it"):
      _ = DatasetFolder.open(folder).sequences
  path = folder / "candidates" / "test_9.parquet"
  pl.read_parquet(path).with_columns(target=pl.lit(10, pl.Int32)).write_parquet(
    path
  )
  with pytest.raises(InputError, match="test_9.parquet: candidates that"):
    DatasetFolder.open(folder).candidates("test", 9)


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("[" * 5000, "not valid YAML"),
    ("- {name: A01, name: A02}", "'name' is there 2 times"),
    ("- name:\tA01\n\ttext: x", "not valid YAML"),
    ("- &a [*a]", "a template needs a name"),
    (
      "- &a [x, x, x, x, x, x, x, x, x]\n"
      + "".join(
        f"- &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
      ),
      "a template needs a name",
    ),
  ],
)
def test_yaml_that_is_no_templates(text, says, tmp_path):
  path = tmp_path / "t.yaml"
  path.write_text(text)
  with pytest.raises(InputError, match=says) as refused:
    load_templates(path)
  assert len(str(refused.value)) < 500


def test_a_database_of_another_schema_is_refused(tmp_path):
  path = tmp_path / "a.sqlite"
  with sqlite3.connect(path) as db:
    db.execute("CREATE TABLE about (name, value)")
    db.execute("INSERT INTO about VALUES ('version', '1'), ('dataset', 'x')")
  with pytest.raises(InputError, match="a.sqlite: not a file of annotations"):
    Store(path, dataset="x").count()


def test_a_vocabulary_that_is_none(tmp_path):
  path = tmp_path / "v.model"
  for content in (b"", b"text", b"\x0a\x03"):
    path.write_bytes(content)
    with pytest.raises(InputError, match="v.model: "):
      Vocabulary.load(path)


def test_what_a_disk_refuses_is_told_alike():
  class Options:
    out = "/data/out"

  full = "No space left on device"
  assert disk_trouble(OSError(errno.ENOSPC, full)) == full
  said = disk_trouble(OSError(errno.ENOSPC, full), Options)
  assert said == f"/data/out: {full}"
  named = OSError(errno.EROFS, "Read-only file system", "/a/b")
  assert disk_trouble(named) == "/a/b: Read-only file system"
  theirs = ValueError(f'RESOURCE_EXHAUSTED: writing "/a/c": {full} [x]')
  assert disk_trouble(theirs) == f"/a/c: {full}"
  outer = RuntimeError("a thread failed")
  outer.__cause__ = theirs
  assert disk_trouble(outer) == f"/a/c: {full}"
  assert disk_trouble(ValueError("a fault of the program")) is None
  hidden = KeyError("x")
  hidden.__context__ = FileNotFoundError(errno.ENOENT, "no such file", "/a")
  assert disk_trouble(hidden) is None


def test_requests_that_were_built_are_missed(tmp_path):
  folder = prepare(out=tmp_path / "d", format="synthetic", users=200)
  built = {
    "options": {"cold_items": "paper", "input_length": 99},
    "vocabulary_sha256": "",
    "annotations": {},
    "requests": {"sequential_test": {"rows": 40}},
  }
  (scenario,) = find_scenarios(["sequential"])
  asked = {"folder": folder, "need_text": False}
  storage.write_json(folder.path / "instructions.json", built)
  with pytest.raises(InputError, match="sequential_test.parquet: no such file"):
    find_requests(scenario, split="test", **asked)
  # Of what was never built the bare candidates will do.
  assert find_requests(scenario, split="validation", **asked).count
