"""Several datasets in one process, cached and not: each has its own rows."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from instructrec_jax import tasks
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import registration, vocabulary
from instructrec_jax.seqio_bridge.build import Options, build

LENGTHS = {"inputs": 512, "targets": 64}
MINE = (
  "- {name: Z01, preferences: [P1], task_form: T2, response: item, "
  "text: 'Had: {history}. What comes next?'}"
)


@pytest.fixture(scope="module")
def shops(make_dataset, tmp_path_factory):
  """Two folders of one vocabulary; the second has a template of its own."""
  first, second = make_dataset(21), make_dataset(22)
  template = tmp_path_factory.mktemp("mine") / "mine.yaml"
  template.write_text(MINE)
  families = ("p1_i0_t2", "p1_i0_t3")
  build(first, train_vocabulary_size=300, options=Options(families=families))
  build(
    second,
    vocabulary=first / "vocabulary.model",
    options=Options(families=families, templates=("package", str(template))),
  )
  return first, second


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
  """Neither a folder in use, nor a name, nor a cache outlives a test."""
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", None)
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  seqio.set_global_cache_dirs([str(tmp_path / "cache")])
  yield
  seqio.set_global_cache_dirs([])
  for name in list(vocabulary.NAMED):
    registration.replace(name, [])
    registration.replace(f"rank {name}", [])
    del vocabulary.NAMED[name]
  registration.register(load_templates())


def _read(name, *, cached=False, split="train"):
  provider = seqio.get_mixture_or_task(name)
  rows = provider.get_dataset(
    LENGTHS, split, use_cached=cached, shuffle=False, num_epochs=1
  )
  return list(rows.as_numpy_iterator())


def _texts(name, **options):
  return sorted(bytes(r["inputs_pretokenized"]) for r in _read(name, **options))


def _cache(name, folder):
  """Writes a task's training rows as `seqio_cache_tasks` does."""
  rows = _read(name)
  target = folder / name
  target.mkdir(parents=True)
  features = {
    key: {
      "shape": [None] if np.ndim(value) else [],
      "dtype": value.dtype.name if hasattr(value, "dtype") else "string",
    }
    for key, value in rows[0].items()
  }
  with tf.io.TFRecordWriter(
    str(target / "train.tfrecord-00000-of-00001")
  ) as file:
    for row in rows:
      # What comes before the placeholder has no end of sequence yet.
      before = {n: v[:-1] if n in LENGTHS else v for n, v in row.items()}
      file.write(seqio.utils.dict_to_tfexample(before).SerializeToString())
  info = {"num_shards": 1, "features": features, "seqio_version": "0.0.20"}
  (target / "info.train.json").write_text(json.dumps(info))
  (target / "stats.train.json").write_text(json.dumps({"examples": len(rows)}))
  (target / "COMPLETED").touch()


def test_two_datasets_in_one_process_have_each_its_own_rows(shops, tmp_path):
  tasks.add("one", shops[0])
  tasks.add("two", shops[1])
  rows = {n: _texts(f"instructrec_{n}_a01_v1") for n in ("one", "two")}
  assert rows["one"] and rows["two"] and rows["one"] != rows["two"]
  for name in rows:
    _cache(f"instructrec_{name}_a01_v1", tmp_path / "cache")
  for name, path in zip(rows, shops, strict=True):
    cached = _texts(f"instructrec_{name}_a01_v1", cached=True)
    assert cached == _texts(f"instructrec_{name}_a01_v1")
    registration.use_dataset(path)
    # What has no name follows the folder in use; names do not.
    assert _texts("instructrec_a01_v1") == rows[name]
    assert _texts("instructrec_one_a01_v1") == rows["one"]
  ranked = _read("instructrec_two_rank_sequential_v1", split="test")
  assert len(ranked) == 22 * 10


def test_a_cache_of_another_dataset_is_refused(shops, tmp_path):
  registration.use_dataset(shops[0])
  _cache("instructrec_a01_v1", tmp_path / "cache")
  assert _texts("instructrec_a01_v1", cached=True)
  registration.use_dataset(shops[1])
  with pytest.raises(InputError, match="a cache of another dataset than"):
    _read("instructrec_a01_v1", cached=True)


def test_several_datasets_are_mixed_by_their_rows(shops):
  names = [f"instructrec_{n}_p1_i0_t2_v1" for n in ("one", "two")]
  folders = {"one": str(shops[0]), "two": str(shops[1])}
  # Twice, as gin calls it for each use of a macro.
  for _ in range(2):
    mixed = tasks.mix(names, datasets=folders)
  assert mixed == "instructrec_one_p1_i0_t2_and_two_p1_i0_t2_v1"
  mixture = seqio.get_mixture_or_task(mixed)
  rate = sum(map(mixture.get_rate, mixture.tasks))
  assert rate == (21 + 22) * 5
  assert len(_read(mixed)) > 100
  assert tasks.mix(names[:1]) == names[0]
  with pytest.raises(InputError, match="no mixture or task 'instructrec_x'"):
    tasks.mix(["instructrec_x", *names])


def test_other_vocabularies_do_not_mix(shops, dataset):
  folders = {"one": str(shops[0]), "three": str(dataset)}
  names = [f"instructrec_{n}_p1_i0_t2_v1" for n in folders]
  with pytest.raises(InputError, match="different vocabularies"):
    tasks.mix(names, datasets=folders)


def test_a_users_template_comes_with_its_folder(shops):
  tasks.add("two", shops[1])
  assert _read("instructrec_two_z01_v1")
  tasks.use(shops[1])
  assert _read("instructrec_z01_v1")


@pytest.mark.parametrize("name", ["", "Games", "rank", "a-b", "../x", 3])
def test_names_that_cannot_be_are_refused(shops, name):
  with pytest.raises(InputError, match="a dataset's name is"):
    tasks.add(name, shops[0])


def test_the_environment_s_folder_is_read(shops, monkeypatch, tmp_path):
  with pytest.raises(InputError, match="set TFDS_DATA_DIR"):
    _read("instructrec_a01_v1")
  monkeypatch.setenv("TFDS_DATA_DIR", str(shops[0]))
  assert _read("instructrec_a01_v1")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(InputError, match="holds no instructions"):
    _read("instructrec_a01_v1")
