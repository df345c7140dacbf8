"""Tests for instructrec_jax/cards.py: what datasets say of themselves.

A model's card is tested with its export.
"""

import json

import pytest

from instructrec_jax.cards import DATASET_CARD
from instructrec_jax.data.prepare import prepare
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.teacher.annotate import annotate_offline


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  path = tmp_path_factory.mktemp("built") / "small-shop"
  prepare(format="synthetic", users=200, out=path)
  annotate_offline(path, training_targets=0)
  build(path, train_vocabulary_size=500, options=Options())
  return path


def test_a_dataset_tells_its_size_split_and_requests(built):
  card = (built / DATASET_CARD).read_text()
  statistics = json.loads((built / "statistics.json").read_text())
  assert card.startswith("# Dataset card: small-shop")
  assert f"| interactions | {statistics['interactions']:,} |" in card
  assert "leave-one-out" in card and "offline" in card
  instructions = json.loads((built / "instructions.json").read_text())
  for scenario, entry in instructions["requests"].items():
    assert (f"| `{scenario}` |" in card) == isinstance(entry, dict)
  for family, rows in instructions["families"]["train"].items():
    assert f"| `{family}` | {rows:,} |" in card
  # No path of the machine that made it.
  assert str(built.parent) not in card


def test_the_same_data_make_the_same_card(built, tmp_path):
  other = tmp_path / "small-shop"
  prepare(format="synthetic", users=200, out=other)
  annotate_offline(other, training_targets=0)
  build(other, train_vocabulary_size=500, options=Options())
  cards = [(path / DATASET_CARD).read_text() for path in (built, other)]
  assert cards[0] == cards[1]
