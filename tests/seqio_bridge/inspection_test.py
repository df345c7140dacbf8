import pytest

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.seqio_bridge.inspection import (
  format_inspection,
  inspect_mixture,
)
from instructrec_jax.text.vocabulary import Vocabulary


def test_findings_agree_with_the_dataset(dataset):
  found = inspect_mixture(
    mixture="instructrec_all_v1", dataset=dataset, sample=200
  )
  rows = storage.read_json(dataset / "instructions.json")["rows"]
  assert {task["name"]: task["rows"] for task in found["tasks"]} == {
    f"instructrec_{name.removesuffix('_train').lower()}_v1": count
    for name, count in rows.items()
    if name.endswith("_train") and count
  }
  assert sum(task["rate"] for task in found["tasks"]) == pytest.approx(1)
  assert found["sample"] == 200
  for name, limit in (("inputs", 512), ("targets", 64)):
    lengths = found["lengths"][name]
    assert 1 < lengths["median"] <= lengths["p95"] <= lengths["max"] <= limit
    assert sum(share for _, share in lengths["histogram"]) == pytest.approx(1)
    assert 0 < found["row_fill"][name] <= 1
  vocabulary = Vocabulary.load(dataset / "vocabulary.model")
  for example in found["examples"]:
    shown = vocabulary.decode(example["features"]["encoder_input_tokens"])
    assert shown and example["inputs"].startswith(shown)


def test_the_text_shows_tasks_lengths_and_examples(dataset):
  found = inspect_mixture(
    mixture="instructrec_p1_i0_t3_v1", dataset=dataset, split="test", sample=9
  )
  text = format_inspection(found)
  assert "instructrec_a10_p1_i0_t3_v1" in text
  assert "tokens of targets: mean" in text
  assert "decoder_loss_weights" in text
  assert found["examples"][0]["inputs"] in text


def test_an_empty_sample_is_refused(dataset):
  with pytest.raises(InputError, match="sample is 0"):
    inspect_mixture(mixture="instructrec_all_v1", dataset=dataset, sample=0)
