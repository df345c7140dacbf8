import collections

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from instructrec_jax import storage
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import registration
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

from .conftest import stored_rows

LENGTHS = {"inputs": 512, "targets": 64}
FORMS = [form for t in load_templates() for form in t.forms]


def _examples(name, split="train", **more):
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    LENGTHS, split=split, use_cached=False, num_epochs=1, seed=0, **more
  )
  return list(dataset.as_numpy_iterator())


def _rows(path) -> dict[str, int]:
  return storage.read_json(path / "instructions.json")["rows"]


@pytest.mark.parametrize(
  "name", ["A01", "A07_p1_p2_i0_t3", "B08_p0_i2_t3", "C11_p1_i1_t3", "C06"]
)
def test_a_task_gives_tokens_of_its_rows(name, dataset):
  registration.use_dataset(dataset)
  (form,) = (form for form in FORMS if form.name == name)
  vocabulary = Vocabulary.load(dataset / "vocabulary.model")
  rows = {split: _rows(dataset)[f"{name}_{split}"] for split in SPLITS}
  assert rows["train"]
  # So small a shop may have no item of product search's validation split.
  for split in (split for split in SPLITS if rows[split]):
    examples = _examples(form.task_name, split, shuffle=False)
    assert len(examples) == rows[split]
    stored = stored_rows(dataset, f"{name}_{split}")
    for example, row in zip(examples, stored, strict=True):
      assert (example["user"], example["item"]) == (row["user"], row["item"])
      for feature, length in LENGTHS.items():
        assert example[feature].dtype == np.int32
        text = example[f"{feature}_pretokenized"]
        assert text == row[feature]
        # Our tokens, without TensorFlow, are SeqIO's.
        wanted = [*vocabulary.encode_one(text.decode()), EOS_ID]
        if len(wanted) > length:
          wanted = [*wanted[: length - 1], EOS_ID]
        assert example[feature].tolist() == wanted


def test_a_mixture_is_all_of_its_tasks_by_their_rows(dataset):
  registration.use_dataset(dataset)
  rows = _rows(dataset)
  for name in (
    "instructrec_p1_i0_t3_v1",
    "instructrec_a07_v1",
    "instructrec_c_v1",
    "instructrec_all_v1",
  ):
    mixture = seqio.get_mixture_or_task(name)
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    names = {form.task_name: form.name for form in FORMS}
    assert rates == {
      task: rows.get(f"{names[task]}_train", 0) for task in rates
    }
  assert rates.keys() == names.keys()
  assert sum(rates.values()) == sum(
    count for split, count in rows.items() if split.endswith("_train")
  )


def test_draws_agree_with_the_rates(dataset):
  """20,000 draws of SeqIO's own mixing, by which task each came from."""
  registration.use_dataset(dataset)
  mixture = seqio.get_mixture_or_task("instructrec_p1_i0_t3_v1")
  rates = [mixture.get_rate(task) for task in mixture.tasks]
  numbered = [
    tf.data.Dataset.from_tensors(number).repeat()
    for number, _ in enumerate(rates)
  ]
  drawn = mixture._sample_fn(numbered, rates, 0).take(20_000)
  counts = collections.Counter(drawn.as_numpy_iterator())
  observed = [counts[number] for number, _ in enumerate(rates)]
  expected = 20_000 * np.array(rates) / sum(rates)
  assert scipy.stats.chisquare(observed, expected).pvalue > 0.001


def test_t5x_gets_its_features_of_all_tasks(dataset):
  registration.use_dataset(dataset)
  batch = next(
    seqio.get_dataset(
      "instructrec_all_v1",
      LENGTHS,
      dataset_split="train",
      shuffle=True,
      seed=0,
      feature_converter=seqio.EncDecFeatureConverter(pack=True),
    )
    .batch(2)
    .as_numpy_iterator()
  )
  assert batch["encoder_input_tokens"].shape == (2, 512)
  assert batch["decoder_target_tokens"].shape == (2, 64)
  assert batch["encoder_segment_ids"].max() > 1


def test_tasks_without_rows_are_passed_over(bare_dataset):
  """No annotations, no categories: most forms have nothing to say."""
  registration.use_dataset(bare_dataset)
  rows = _rows(bare_dataset)
  encode = Vocabulary.load(bare_dataset / "vocabulary.model").encode_one
  assert rows["C10_p1_i1_t3_train"] == 0
  for split in ("train", "test"):
    drawn = collections.Counter(
      tuple(example["inputs"].tolist())
      for example in _examples("instructrec_a_v1", split)
    )
    stored = collections.Counter(
      (*encode(row["inputs"].decode()), EOS_ID)
      for name, count in rows.items()
      if name.startswith("A") and name.endswith(f"_{split}") and count
      for row in stored_rows(bare_dataset, name)
    )
    # SeqIO ends an epoch with its first task that has run out.
    assert drawn and drawn <= stored
  with pytest.raises(ValueError, match="No datasets have a 'train' split"):
    _examples("instructrec_p1_i1_t3_v1")


def test_tasks_follow_the_dataset_in_use(dataset, bare_dataset):
  for path in (dataset, bare_dataset, dataset):
    registration.use_dataset(path)
    task = seqio.get_mixture_or_task("instructrec_a01_v1")
    assert registration.count_rows(task, "train") == _rows(path)["A01_train"]
    vocabulary = task.output_features["inputs"].vocabulary
    wanted = Vocabulary.load(path / "vocabulary.model")
    assert vocabulary.vocab_size == wanted.num_pieces + wanted.extra_ids


def test_a_users_template_goes_from_file_to_mixture(make_dataset, tmp_path):
  path = tmp_path / "mine.yaml"
  path.write_text(
    "- {name: Z01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had: {history}. What comes next?'}"
  )
  mine = make_dataset(20)
  options = Options(families=("p1_i0_t2",))
  for templates, also in (
    ((str(path),), False),
    (("package", str(path)), True),
  ):
    build(
      mine,
      train_vocabulary_size=300,
      options=Options(**{**vars(options), "templates": templates}),
      force=True,
    )
    registration.use_dataset(mine)
    assert _examples("instructrec_z01_v1")
    assert ("instructrec_a01_v1" in seqio.TaskRegistry.names()) == also
    family = seqio.get_mixture_or_task("instructrec_p1_i0_t2_v1")
    # Eight items: two are held out, and the first has no history.
    assert sum(map(family.get_rate, family.tasks)) == 20 * 5
  registration.register(load_templates())


def test_an_unbuilt_dataset_is_refused(make_dataset):
  with pytest.raises(InputError, match="instructrec build --dataset"):
    registration.use_dataset(make_dataset(10))
