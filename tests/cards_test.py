"""Tests for instructrec_jax/cards.py: what datasets say of themselves.

A model's card is tested with its export.
"""

import json
import shutil

import pytest

from instructrec_jax.cards import DATASET_CARD, dataset_card
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
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


def test_what_people_wrote_on_a_card_is_not_replaced(built, tmp_path):
  folder = tmp_path / "small-shop"
  shutil.copytree(built, folder)
  card = folder / DATASET_CARD
  as_made = card.read_bytes()

  for text in (as_made.replace(b"## Limits", b"## Licence"), b"mine", b""):
    card.write_bytes(text)
    with pytest.raises(InputError, match="move it away"):
      build(folder, train_vocabulary_size=500, force=True)
    assert card.read_bytes() == text
  # Nor one that was there before the first build, nor by `prepare`.
  (folder / "instructions.json").unlink()
  (folder / "annotations.sqlite").unlink()
  with pytest.raises(InputError, match="move it away"):
    build(folder, train_vocabulary_size=500)
  with pytest.raises(InputError, match="move it away"):
    prepare(format="synthetic", users=200, out=folder, force=True)
  card.write_bytes(as_made)
  prepare(format="synthetic", users=200, out=folder, force=True)


def card_of(built, *, prepared=None, instructed=None):
  """The card, had it been made with other options."""
  found = {
    name: json.loads((built / f"{name}.json").read_text())
    for name in ("manifest", "statistics", "instructions")
  }
  found["manifest"]["options"] |= prepared or {}
  found["instructions"]["options"] |= instructed or {}
  return dataset_card("shop", **found)


def test_a_source_that_filters_nothing_is_not_said_to(built):
  card = card_of(built, prepared={"min_count": 0, "split": "official"})
  assert "fewer than" not in card and "no users or items were left out" in card


def test_lists_that_lack_what_was_bought_are_told(built):
  lacks = "70% of training's lists of candidates lack"
  assert lacks in card_of(built, instructed={"unlisted": 0.7})
  assert "lists of candidates lack" not in card_of(built)
