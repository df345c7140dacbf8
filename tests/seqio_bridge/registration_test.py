import numpy as np
import pytest
import seqio
import yaml

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import registration
from instructrec_jax.seqio_bridge.build import build
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

LENGTHS = {"inputs": 512, "targets": 64}


def _examples(name, split="train", **more):
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    LENGTHS, split=split, use_cached=False, num_epochs=1, seed=0, **more
  )
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("template", load_templates(), ids=lambda t: t.name)
def test_every_task_gives_tokens_of_its_rows(template, dataset):
  registration.use_dataset(dataset)
  rows = storage.read_json(dataset / "instructions.json")["rows"]
  vocabulary = Vocabulary.load(dataset / "vocabulary.model")
  for split in ("train", "validation", "test"):
    examples = _examples(template.task_name, split, shuffle=False)
    assert len(examples) == rows[f"{template.name}_{split}"] > 0
    for example in examples:
      for name in ("inputs", "targets"):
        assert example[name].dtype == np.int32
        assert example[name].ndim == 1
        text = example[f"{name}_pretokenized"].decode()
        # Our tokens, without TensorFlow, are SeqIO's.
        wanted = [*vocabulary.encode_one(text), EOS_ID]
        assert example[name].tolist() == wanted


def test_seqio_vouches_for_a_task(dataset):
  registration.use_dataset(dataset)
  task = seqio.get_mixture_or_task("instructrec_a07_v1")
  rows = task.source.get_dataset(split="test", shuffle=False)
  source = next(rows.as_numpy_iterator())
  encode = Vocabulary.load(dataset / "vocabulary.model").encode_one
  expected = {
    "user": source["user"],
    "item": source["item"],
    **{
      f"{name}_pretokenized": source[name].decode()
      for name in ("inputs", "targets")
    },
    **{
      name: [*encode(source[name].decode()), EOS_ID]
      for name in ("inputs", "targets")
    },
  }
  produced = task.get_dataset(
    LENGTHS, split="test", use_cached=False, shuffle=False
  )
  seqio.test_utils.assert_dataset(produced.take(1), expected)


def test_a_mixture_is_all_of_its_tasks_by_their_rows(dataset):
  registration.use_dataset(dataset)
  rows = storage.read_json(dataset / "instructions.json")["rows"]
  for name, letters in (
    ("instructrec_p1_i0_t0_v1", ("A11", "A12")),
    ("instructrec_p1_i0_t2_v1", ("A01", "A04", "A05", "A06")),
    ("instructrec_p1_i0_t3_v1", ("A07", "A08", "A09", "A10", "A13")),
    ("instructrec_a_v1", [t.name for t in load_templates()]),
    ("instructrec_all_v1", [t.name for t in load_templates()]),
  ):
    mixture = seqio.get_mixture_or_task(name)
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == {
      f"instructrec_{letter.lower()}_v1": rows[f"{letter}_train"]
      for letter in letters
    }


def test_t5x_gets_its_features(dataset):
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


def test_tasks_follow_the_dataset_in_use(dataset, other_dataset):
  for path in (dataset, other_dataset, dataset):
    registration.use_dataset(path)
    task = seqio.get_mixture_or_task("instructrec_a01_v1")
    rows = storage.read_json(path / "instructions.json")["rows"]
    assert registration.count_rows(task, "train") == rows["A01_train"]
    vocabulary = task.output_features["inputs"].vocabulary
    wanted = Vocabulary.load(path / "vocabulary.model")
    assert vocabulary.vocab_size == wanted.num_pieces + wanted.extra_ids


def test_a_dataset_brings_its_own_templates(make_dataset, tmp_path):
  path = tmp_path / "mine.yaml"
  entry = {
    "name": "Z01",
    "preferences": ["P1"],
    "intention": "I0",
    "task_form": "T2",
    "response": "item",
    "text": "Had: {history}. What comes next?",
  }
  path.write_text(yaml.safe_dump([entry]))
  mine = make_dataset(20)
  build(mine, train_vocabulary_size=300, templates_file=path)
  registration.use_dataset(mine)
  assert len(_examples("instructrec_all_v1")) == 20 * 5
  assert "instructrec_a01_v1" not in seqio.TaskRegistry.names()
  registration.register(load_templates())


def test_an_unbuilt_dataset_is_refused(make_dataset):
  with pytest.raises(InputError, match="instructrec build --dataset"):
    registration.use_dataset(make_dataset(10))
