import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from instructrec_jax import requests, storage
from instructrec_jax.cli import build as cli
from instructrec_jax.data.folder import ANNOTATIONS_FILE, DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.instructions import blocks
from instructrec_jax.instructions import build as build_lib
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.teacher.annotate import annotate_offline
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary

from .conftest import FAMILIES, stored_rows

TFDS = "instructrec/main/1.0.0"
ONE_FAMILY = Options(families=("p1_i0_t2",))
CHAIN_OF_THOUGHT = "p1_p2_chain_of_thought"


def _copy(dataset, tmp_path):
  """A dataset folder as `prepare` and `annotate` left it."""
  copy = tmp_path / "data"
  shutil.copytree(dataset, copy)
  for name in ("instructrec", "requests"):
    shutil.rmtree(copy / name)
  for name in ("instructions.json", "vocabulary.model", "templates.yaml"):
    (copy / name).unlink()
  return copy


def _files(folder):
  return {
    path.relative_to(folder): storage.sha256_of(path)
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_plain_tfds_reads_what_the_manifest_says(dataset):
  manifest = storage.read_json(dataset / "instructions.json")
  info = tfds.builder_from_directory(dataset / TFDS).info
  counts = {
    name: split.num_examples
    for name, split in info.splits.items()
    if split.num_examples
  }
  assert counts == {n: rows for n, rows in manifest["rows"].items() if rows}
  planned = manifest["families"]["train"]
  assert all(planned.values())
  train = sum(n for name, n in counts.items() if name.endswith("_train"))
  assert train == sum(planned.values())
  split = "A07_p1_i0_t3_train"
  rows = stored_rows(dataset, split)
  assert len(rows) == counts[split]
  folder = DatasetFolder.open(dataset)
  for row in rows:
    assert folder.items[row["item"]].title == row["targets"].decode()
    assert row["targets"] in row["inputs"]
    assert row["item"] in folder.sequences.user(row["user"])[1:-2]


def test_requests_hold_the_stored_candidates(dataset):
  folder = DatasetFolder.open(dataset)
  titles = display_titles(folder.items)
  for split in ("validation", "test"):
    for name, negatives in (("sequential", 9), ("sequential_99", 99)):
      path = dataset / "requests" / f"{name}_{split}.parquet"
      stored = folder.candidates(split, negatives)
      found = list(requests.read_requests(path))
      assert len(found) == len(folder.splits.test.users)
      for request, items in zip(found, stored.candidates, strict=True):
        assert list(request.candidate_items) == items.tolist()
        assert request.candidates == tuple(titles[i] for i in items)
        assert request.target is not None
        item = request.candidate_items[request.target]
        last = -1 if split == "test" else -2
        assert item == folder.sequences.user(request.user)[last]
        shown = [title in request.instruction for title in request.candidates]
        # A hundred titles do not fit: those are matched, not reranked.
        assert all(shown) == (negatives == 9)


def test_searches_carry_their_words(dataset):
  for name in ("personalised_i1", "product_search_i2"):
    path = dataset / "requests" / f"{name}_test.parquet"
    for request in requests.read_requests(path):
      assert request.query
      # As the end of a quoted sentence it keeps its own full stop.
      assert request.query.rstrip(".!?") in request.instruction
      assert (request.user is None) == (name == "product_search_i2")


def test_what_is_missing_is_said(dataset, bare_dataset):
  found = storage.read_json(dataset / "instructions.json")["requests"]
  assert found["pointwise"] == "not written: no template of <P1,I0,T0>"
  found = storage.read_json(bare_dataset / "instructions.json")["requests"]
  assert found["sequential_test"]["rows"] == 25
  assert (
    "no intentions; run `instructrec annotate` first"
    in (found["personalised_i1_test"])
  )


def test_who_has_annotated_is_not_sent_to_annotate(bare_dataset, tmp_path):
  copy = _copy(bare_dataset, tmp_path)
  annotate_offline(copy)
  options = Options(families=("p1_i0_t3", "p1_i1_t3"))
  build(copy, train_vocabulary_size=300, options=options, force=True)
  found = storage.read_json(copy / "instructions.json")["requests"]
  assert found["personalised_i1_test"] == (
    "not written: the dataset has no intentions"
  )
  options = Options(families=("p1_i1_t3",))
  with pytest.raises(InputError, match="p1_i1_t3 show; name other --families"):
    build(copy, train_vocabulary_size=300, options=options, force=True)


def test_the_same_seed_writes_the_same_files(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  vocabulary = dataset / "vocabulary.model"
  manifest = storage.read_json(dataset / "instructions.json")
  options = Options(families=tuple(manifest["options"]["families"]))
  build(copy, vocabulary=vocabulary, options=options)
  ignored = "annotations.sqlite"  # Its log may be written back meanwhile.
  files = {p: h for p, h in _files(copy).items() if ignored not in p.name}
  for path, digest in files.items():
    assert digest == storage.sha256_of(dataset / path), path
  build(copy, options=Options(families=("p1_i0_t2",), seed=1), force=True)
  assert _files(copy) != files


def test_no_process_orders_features_by_chance(dataset):
  """Bytes are the same in any process, whose maps have orders of their own."""
  read = tf.data.TFRecordDataset(
    sorted(map(str, (dataset / TFDS).glob("*tf*")))
  )
  for raw in read.as_numpy_iterator():
    example = tf.train.Example.FromString(raw)
    assert raw == example.SerializeToString(deterministic=True)
  # As a map's entries have them: the length, then the name.
  keys = (
    b"\x06inputs\x12",
    b"\x04item\x12",
    b"\x07targets\x12",
    b"\x04user\x12",
  )
  names = [raw.index(key) for key in keys]
  assert names == sorted(names)


def test_hard_negatives_are_drawn_once(dataset, tmp_path):
  folder = DatasetFolder.open(dataset)
  path = dataset / "candidates" / "hard_test_9.parquet"
  before = storage.sha256_of(path)
  stored = folder.candidates("test", 9, "hard")
  for user, items, slot in zip(
    stored.keys, stored.candidates, stored.target, strict=True
  ):
    own = set(folder.known_items("test").user(user).tolist())
    assert own & set(items.tolist()) == {items[slot]}
  copy = tmp_path / "data"
  shutil.copytree(dataset, copy)
  build(copy, options=Options(families=("p1_i0_t2",), seed=5), force=True)
  copied = copy / "candidates" / "hard_test_9.parquet"
  assert storage.sha256_of(copied) == before


def test_hard_negatives_may_be_another_matchers(dataset, tmp_path):
  copy = tmp_path / "data"
  shutil.copytree(dataset, copy)
  name = "hard_test_9.parquet"
  options = Options(families=("p1_i0_t3",), matcher="two_tower")
  build(copy, options=options, force=True)
  before, after = (
    pl.read_parquet(path / "candidates" / name) for path in (dataset, copy)
  )
  assert before["user"].equals(after["user"])
  assert not before["candidates"].equals(after["candidates"])
  metadata = pl.read_parquet_metadata(copy / "candidates" / name)
  assert metadata["matcher"] == "two_tower"
  places = after["matched_at"]
  found = ((places >= 0) & (places < 10)).mean()
  assert json.loads(metadata["recall"])["10"] == pytest.approx(found)
  path = copy / "requests" / "sequential_hard_test.parquet"
  rows = [list(r.candidate_items) for r in requests.read_requests(path)]
  assert rows == after["candidates"].to_list()


def test_a_second_build_is_refused(dataset):
  before = _files(dataset)
  with pytest.raises(InputError, match="--force"):
    build(dataset)
  assert _files(dataset) == before


def test_what_somebody_put_beside_the_requests_stays(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  mine = copy / "requests" / "mine.parquet"
  mine.parent.mkdir()
  mine.write_text("mine")
  with pytest.raises(InputError, match=r"requests holds mine.parquet"):
    build(copy, vocabulary=dataset / "vocabulary.model", options=ONE_FAMILY)
  assert mine.read_text() == "mine"


def test_a_build_that_fails_leaves_nothing(dataset, tmp_path, monkeypatch):
  copy = _copy(dataset, tmp_path)
  before = _files(copy)

  def fail(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(build_lib, "write_requests", fail)
  with pytest.raises(KeyboardInterrupt):
    build(copy, vocabulary=dataset / "vocabulary.model", options=ONE_FAMILY)
  assert _files(copy).keys() == before.keys()


def test_bad_options_are_refused(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  with pytest.raises(InputError, match=r"spiece.model .*--train-vocab"):
    build(copy)
  with pytest.raises(InputError, match="no such vocabulary"):
    build(copy, vocabulary=tmp_path / "absent")
  for options, said in (
    (Options(rows_per_target=0), "at least 1"),
    (Options(cold_items="some"), "not one of paper, strict, none"),
    (Options(families=("p9",)), "no template is of the family 'p9'"),
    (Options(templates=(str(tmp_path / "no.yaml"),)), "no such file"),
  ):
    with pytest.raises(InputError, match=said):
      build(copy, train_vocabulary_size=300, options=options)
  assert not (copy / "vocabulary.model").exists()


def test_nothing_is_built_of_nothing(bare_dataset, tmp_path, recwarn):
  copy = _copy(bare_dataset, tmp_path)
  before = _files(copy)
  vocabulary = bare_dataset / "vocabulary.model"
  options = Options(families=("p1_i1_t3",))
  with pytest.raises(InputError, match=r"p1_i1_t3 show; .*annotate` first"):
    build(copy, vocabulary=vocabulary, options=options)
  assert _files(copy) == before
  assert not recwarn.list


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_chain_of_thought_may_be_of_candidates(dataset, tmp_path, split):
  copy = _copy(dataset, tmp_path)
  templates = tmp_path / "mine.yaml"
  templates.write_text(
    "- {name: Z01, preferences: [P1], strategy: chain-of-thought, "
    "task_form: T3, response: reasoned_item, "
    "text: 'Had: {history}. Think, then choose: {candidates}.'}"
  )
  # Z01 is of the same family as the package's A03, which has no candidates.
  options = Options(
    templates=("package", str(templates)), families=(CHAIN_OF_THOUGHT,)
  )
  manifest = build(
    copy, vocabulary=dataset / "vocabulary.model", options=options
  )
  assert manifest["rows"][f"A03_{split}"]
  titles = display_titles(DatasetFolder.open(copy).items)
  for row in stored_rows(copy, f"Z01_{split}"):
    shown = row["inputs"].decode().split("Think, then choose: ")[1]
    # A title brings its own full stop along.
    shown = shown.removesuffix(".").split("; ")
    assert len(shown) == 10
    assert titles[row["item"]].removesuffix(".") in shown
    assert row["targets"].decode().endswith(titles[row["item"]])


def test_strict_builds_train_on_no_cold_item(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  options = Options(families=("p1_i0_t3",), cold_items="strict")
  build(copy, vocabulary=dataset / "vocabulary.model", options=options)
  folder = DatasetFolder.open(copy)
  cold = {
    title
    for title, split in zip(
      display_titles(folder.items), folder.item_split, strict=True
    )
    if split
  }
  for row in stored_rows(copy, "A07_p1_i0_t3_train"):
    assert not any(title in row["inputs"].decode() for title in cold)


def test_instructions_keep_to_the_budget(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  vocabulary = dataset / "vocabulary.model"
  templates = tmp_path / "one.yaml"
  templates.write_text(
    "- {name: A01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had: {history}. What comes next?'}"
  )
  options = Options(templates=(str(templates),), input_length=30)
  manifest = build(copy, vocabulary=vocabulary, options=options)
  assert manifest["cuts"]["items_dropped"] > 0
  assert manifest["cuts"]["rows_over_budget"] == 0
  count = Vocabulary.load(vocabulary).count_tokens
  for row in stored_rows(copy, "A01_train"):
    assert count(row["inputs"].decode()) < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_and_blocks_change_nothing(
  dataset, tmp_path, monkeypatch, workers
):
  copy = _copy(dataset, tmp_path)
  monkeypatch.setattr(build_lib, "_ROWS_OF_A_PROCESS", 1)
  # Those of the fixture are of 4096 rows and one process.
  monkeypatch.setattr(blocks, "_ROWS", 7)
  build(
    copy,
    vocabulary=dataset / "vocabulary.model",
    options=Options(families=FAMILIES),
    workers=workers,
  )
  assert _without_log(copy) == _without_log(dataset)


@pytest.mark.parametrize(
  ("crowd_wishes", "workers"), [(False, 1), (True, 1), (True, 2)]
)
def test_a_crowds_wishes_stand_alone_where_asked(
  dataset, tmp_path, monkeypatch, crowd_wishes, workers
):
  monkeypatch.setattr(build_lib, "_ROWS_OF_A_PROCESS", 1)
  copy = _copy(dataset, tmp_path)
  folder = DatasetFolder.open(copy)
  material = Material(folder, annotations=Annotations.load(folder))
  facts = material.facts("train")
  # Some are a crowd's, too, word for word.
  crowd = Paraphrases(folder.items)
  of_teacher = {*facts.queries[Query.VAGUE]} - {
    crowd.wish(int(item), number=number)
    for number, item in enumerate(facts.items)
  }
  shown = []

  def write(rows, **_):
    shown.extend(row.inputs for name, row in rows if name.endswith("_train"))
    raise InputError("that will do")

  with pytest.raises(InputError, match="that will do"):
    build_lib.build(
      copy,
      write_rows=write,
      write_hard_candidates=lambda *_, **__: None,
      vocabulary=dataset / "vocabulary.model",
      options=Options(
        families=("p1_i1_t3",), paraphrases=True, crowd_wishes=crowd_wishes
      ),
      workers=workers,
    )
  assert shown
  found = [
    text for text in shown if any(wish in text for wish in of_teacher if wish)
  ]
  assert bool(found) != crowd_wishes


def _without_log(folder):
  """Hashes of all but the annotations, whose log may be written back."""
  files = _files(folder).items()
  return {p: h for p, h in files if ANNOTATIONS_FILE not in p.name}


def test_a_process_that_is_ended_is_told_and_leaves_nothing(
  dataset, tmp_path, monkeypatch
):
  copy = _copy(dataset, tmp_path)
  before = _without_log(copy)
  monkeypatch.setattr(build_lib, "_ROWS_OF_A_PROCESS", 1)

  def write(rows, **_):
    for number, _ in enumerate(rows):
      for child in multiprocessing.active_children() if number == 50 else ():
        os.kill(child.pid, signal.SIGKILL)

  with pytest.raises(InputError, match="ended from outside.*fewer --workers"):
    build_lib.build(
      copy,
      write_rows=write,
      write_hard_candidates=lambda *_, **__: None,
      vocabulary=dataset / "vocabulary.model",
      options=Options(families=FAMILIES),
      workers=2,
    )
  assert _without_log(copy) == before
  assert not multiprocessing.active_children()


BUILD = """
import pathlib, sys
from instructrec_jax.instructions import build as build_lib

def write(rows, **_):
  import multiprocessing
  for number, _ in enumerate(rows):
    if number == 50:
      print(*(c.pid for c in multiprocessing.active_children()), flush=True)
      input()

if __name__ == "__main__":
  build_lib._ROWS_OF_A_PROCESS = 1
  build_lib.build(
    pathlib.Path(sys.argv[1]),
    write_rows=write,
    write_hard_candidates=lambda *_, **__: None,
    vocabulary=pathlib.Path(sys.argv[2]),
    workers=2,
  )
"""


def test_no_process_outlives_a_run_that_was_killed(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  script = tmp_path / "build_it.py"
  script.write_text(BUILD)
  with subprocess.Popen(
    [sys.executable, script, copy, dataset / "vocabulary.model"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    # Python tells of what the killed run left to clean up.
    stderr=subprocess.DEVNULL,
    text=True,
  ) as run:
    assert run.stdout is not None
    children = [int(pid) for pid in run.stdout.readline().split()]
    assert len(children) == 2
    run.kill()
  for _ in range(300):
    alive = [pid for pid in children if _is_alive(pid)]
    if not alive:
      break
    time.sleep(0.1)
  assert not alive


def _is_alive(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  except OSError:
    return False
  # A zombie waits for nobody but whoever adopted it.
  return state.split()[0] != "Z"


def test_beam_is_an_extra_and_its_options_are_its_own(dataset, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(
    sys.modules, "instructrec_jax.seqio_bridge.beam", raising=False
  )
  with pytest.raises(InputError, match=r"pip install .*\[beam\]'"):
    cli.run(cli.Options(dataset=dataset, beam_runner="DirectRunner"))
  for options, said in (
    ({"beam_options": ("direct_num_workers=2",)}, "add --beam_runner"),
    ({"beam_runner": "DirectRunner", "workers": 2}, "in --beam_options"),
  ):
    with pytest.raises(InputError, match=said):
      cli.Options(dataset=dataset, **options)
