"""Tests for instructrec_jax/baselines/hard_negatives.py."""

import collections
import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest

from instructrec_jax.baselines import hard_negatives
from instructrec_jax.baselines.hard_negatives import (
  NOT_FOUND,
  hard_candidates,
  recall,
  top_items,
  write_hard_candidates,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import Sequences, Targets, leave_one_out
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.build import Options

from .bert_folder import write_bert

ITEMS = 40


class LowestNumber:
  """Prefers low item numbers, and remembers what it was shown."""

  def __init__(self):
    self.histories = []

  def retrieve(self, histories, *, users, count, exclude):
    assert len(users) == len(histories) == len(exclude)
    self.histories += [list(history) for history in histories]
    scores = np.tile(-np.arange(ITEMS, dtype=float), (len(histories), 1))
    return top_items(scores, count=count, exclude=exclude)


def ragged(users):
  return Sequences(
    items=np.array([item for items in users for item in items], np.int32),
    offsets=np.cumsum([0, *map(len, users)]),
  )


@pytest.fixture(scope="module")
def shop():
  rng = np.random.default_rng(0)
  own = [rng.permutation(ITEMS)[: rng.integers(4, 9)] for _ in range(60)]
  # `sequences` lacks each user's first item, as a cut at 20 items would.
  return dict(
    sequences=ragged([items[1:] for items in own]),
    owned=ragged(own),
    title_groups=np.arange(ITEMS) % 30,
  )


def draw(shop, *, targets=None, matcher=None, seed=0, count=9):
  return hard_candidates(
    matcher or LowestNumber(),
    **shop,
    targets=targets or leave_one_out(shop["sequences"]).test,
    count=count,
    rng=np.random.default_rng(seed),
  )


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_lists_are_the_matchers_best_allowed_items_and_the_target(
  shop, split, monkeypatch
):
  monkeypatch.setattr(hard_negatives, "_BLOCK", 7)
  targets = getattr(leave_one_out(shop["sequences"]), split)
  matcher = LowestNumber()
  candidates, places = draw(shop, targets=targets, matcher=matcher)
  groups = shop["title_groups"]
  wanted = targets.items(shop["sequences"])
  assert candidates.keys is targets.users
  assert candidates.candidates.dtype == candidates.target.dtype == np.int32
  for n, item in enumerate(wanted):
    user, position = targets.users[n], targets.positions[n]
    own = shop["owned"].user(user).tolist()
    allowed = [
      i for i in range(ITEMS) if i not in own and groups[i] != groups[item]
    ]
    row = candidates.candidates[n].tolist()
    assert sorted(row) == sorted([*allowed[:9], item])
    assert row[candidates.target[n]] == item
    # Where it would be, were it but allowed; at least ten were asked for.
    place = sorted([*allowed, item]).index(item)
    assert places[n] == place or (places[n] == NOT_FOUND and place >= 10)
    past = shop["sequences"].user(user)[:position].tolist()
    assert matcher.histories[n] == past


def test_the_same_seed_gives_the_same_lists_and_another_others(shop):
  (first, _), (again, _), (other, _) = (draw(shop, seed=s) for s in (0, 0, 1))
  assert np.array_equal(first.candidates, again.candidates)
  assert not np.array_equal(first.candidates, other.candidates)


def test_neither_slot_nor_order_tells_anything(shop):
  test = leave_one_out(shop["sequences"]).test
  many = Targets(np.repeat(test.users, 200), np.repeat(test.positions, 200))
  candidates, _ = draw(shop, targets=many)
  slots = np.bincount(candidates.target, minlength=10) / len(many.users)
  assert np.abs(slots - 0.1).max() < 0.015
  # Nor does the matcher's best negative have a favourite place.
  best = np.where(
    candidates.candidates == many.items(shop["sequences"])[:, None],
    ITEMS,
    candidates.candidates,
  ).argmin(axis=1)
  slots = np.bincount(best, minlength=10) / len(many.users)
  assert np.abs(slots - 0.1).max() < 0.015


def test_an_item_bought_again_can_be_retrieved():
  shop = dict(
    sequences=ragged([[0, 1, 2, 0]]),
    owned=ragged([[0, 1, 2, 0]]),
    title_groups=np.arange(ITEMS),
  )
  candidates, places = draw(shop)
  assert collections.Counter(candidates.candidates[0].tolist())[0] == 1
  assert places.tolist() == [0]


def test_recall_counts_what_is_above_k():
  places = np.array([0, 9, 10, 99, NOT_FOUND], np.int32)
  assert recall(places) == {10: 0.4, 20: 0.6, 50: 0.6, 100: 0.8}


def test_too_small_a_catalogue_is_one_sentence(shop):
  with pytest.raises(InputError, match="ask for fewer"):
    draw(shop, count=36)


def test_a_text_encoder_makes_other_lists(short_fits, tmp_path):
  path = tmp_path / "shop"
  prepare(format="synthetic", users=250, out=path)
  folder = DatasetFolder.open(path)
  encoder = write_bert(tmp_path / "bert")

  def lists(text_encoder, name="two_tower"):
    write_hard_candidates(
      folder, matcher=name, text_encoder=text_encoder, seed=0
    )
    file = path / "candidates/hard_test_9.parquet"
    return file.read_bytes(), pl.read_parquet_metadata(file)

  words, _ = lists(None)
  titles, metadata = lists(str(encoder))
  assert words != titles and len(metadata["text_encoder"]) == 64
  # The same weights elsewhere are the same encoder: nothing is written anew.
  moved = shutil.copytree(encoder, tmp_path / "moved")
  shutil.rmtree(path / "baselines")
  assert lists(str(moved))[0] == titles
  assert not (path / "baselines").exists()
  with pytest.raises(InputError, match="add --matcher two_tower"):
    Options(text_encoder=str(encoder)).check()


@pytest.mark.parametrize("matcher", ["tfidf", "bm25"])
def test_lists_do_not_depend_on_what_no_model_reads(tmp_path, matcher):
  lists = []
  for name, categories in (("own", None), ("none", ())):
    folder = prepare(format="synthetic", users=250, out=tmp_path / name)
    if categories is not None:
      folder.items = [
        dataclasses.replace(item, categories=categories)
        for item in folder.items
      ]
    write_hard_candidates(folder, matcher=matcher, seed=0)
    lists.append(
      pl.read_parquet(folder.path / "candidates/hard_test_9.parquet")
    )
  assert lists[0].equals(lists[1])


def test_no_targets_give_no_lists(shop):
  none = Targets(np.zeros(0, np.int32), np.zeros(0, np.int32))
  candidates, places = draw(shop, targets=none)
  assert candidates.candidates.shape == (0, 10)
  assert places.shape == candidates.target.shape == (0,)
