"""Tests for instructrec_jax/instructions/sequences.py."""

import collections

import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.material import Material, title_counts
from instructrec_jax.instructions.rows import Renderer
from instructrec_jax.instructions.sequences import (
  count_sequences,
  sequence_rows,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("sequences") / "shop"
  prepare(out=path, format="synthetic", users=60, min_count=0)
  return DatasetFolder.open(path)


def rows(folder, split, *, budget=512, seed=0, **options):
  material = Material(folder, **options)
  renderer = Renderer(
    count_tokens=lambda text: len(text.split()), budget=budget
  )
  found = list(sequence_rows(material, renderer, split=split, seed=seed))
  assert len(found) == count_sequences(material, split)
  return material, found


def test_every_training_purchase_is_a_target_after_what_came_before(folder):
  material, found = rows(folder, "train")
  targets = collections.Counter((row.user, row.item) for row in found)
  mask = folder.splits.training_mask(folder.sequences)
  users = np.repeat(np.arange(len(folder.sequences)), folder.sequences.lengths)
  bought = zip(
    users[mask].tolist(), folder.sequences.items[mask].tolist(), strict=True
  )
  assert targets == collections.Counter(bought)
  for row in found:
    items = folder.sequences.user(row.user).tolist()
    before = items[: items.index(row.item)]
    assert row.inputs == "; ".join(material.titles[item] for item in before)
    assert row.targets == material.titles[row.item]
  assert sum(not row.inputs for row in found) == len(folder.sequences)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_later_split_is_shown(folder, split):
  material, found = rows(folder, split)
  held_out = ["test"] if split == "validation" else ["validation", "test"]
  for name in held_out:
    targets = getattr(folder.splits, name)
    later = dict(
      zip(
        targets.users.tolist(),
        targets.items(folder.sequences).tolist(),
        strict=True,
      )
    )
    for row in found:
      titles = {*row.inputs.split("; "), row.targets}
      assert material.titles[later[row.user]] not in titles


def test_strict_cold_items_are_in_no_training_text(folder):
  material, found = rows(folder, "train", cold_items="strict")
  cold = {
    t for t, s in zip(material.titles, folder.item_split, strict=True) if s
  }
  assert cold and found
  for row in found:
    assert not cold & {*row.inputs.split("; "), row.targets}


def test_a_budget_costs_the_oldest_titles(folder):
  _, whole = rows(folder, "train")
  _, cut = rows(folder, "train", budget=9)
  assert any(a.inputs != b.inputs for a, b in zip(whole, cut, strict=True))
  for a, b in zip(whole, cut, strict=True):
    assert a.inputs.endswith(b.inputs)
    assert len(b.inputs.split()) < 9 or "; " not in b.inputs


def test_order_depends_on_the_seed_alone(folder):
  assert rows(folder, "train")[1] == rows(folder, "train")[1]
  assert rows(folder, "train")[1] != rows(folder, "train", seed=1)[1]


def test_titles_are_counted_in_training_alone(folder):
  counts = title_counts(folder)
  mask = folder.splits.training_mask(folder.sequences)
  titles = Material(folder).titles
  by_hand = collections.Counter(titles[i] for i in folder.sequences.items[mask])
  assert {t: n for t, n in counts.items() if n} == dict(by_hand)
  assert counts.keys() == set(titles)
