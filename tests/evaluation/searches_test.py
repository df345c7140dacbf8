"""Tests for instructrec_jax/evaluation/searches.py: what may be learned."""

import pytest

from instructrec_jax.baselines.searches import NOBODY
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.evaluation.searches import SearchMaterial


@pytest.fixture(scope="module")
def folder(built):
  return DatasetFolder.open(built)


@pytest.fixture(scope="module")
def material(folder):
  return SearchMaterial(folder)


def test_users_search_for_targets_of_their_split(folder, material):
  for split, targets in (
    ("train", folder.splits.training),
    ("validation", folder.splits.validation),
  ):
    found = material.personal(split)
    places = set(zip(targets.users, targets.positions, strict=True))
    assert set(zip(found.users, found.positions, strict=True)) <= places
    for user, position, item in zip(
      found.users, found.positions, found.items, strict=True
    ):
      assert folder.sequences.user(user)[position] == item
    assert len(found) > len(places)
    assert all(map(str.strip, found.queries))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_products_are_searched_in_their_own_split(folder, material, split):
  found = material.impersonal(split)
  assert set(folder.item_split[found.items]) == {SPLITS.index(split)}
  assert (found.users == NOBODY).any()


def test_no_preference_is_a_product_search(material):
  def preferences(searches):
    return [q for q in searches.queries if q.startswith("The user")]

  assert preferences(material.personal("train"))
  assert not preferences(material.impersonal("train"))
