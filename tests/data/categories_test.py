"""Tests for instructrec_jax/data/categories.py."""

import ast
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data.categories import (
  category_labels,
  clean_categories,
  root_categories,
  specific_intentions,
)
from instructrec_jax.records import Item


def items(*categories):
  return [Item(str(n), "T", names) for n, names in enumerate(categories)]


@pytest.mark.parametrize(
  ("raw", "cleaned"),
  [
    (["Toys &amp; Games", "Dolls"], ("Toys & Games", "Dolls")),
    ([["A", "B"], ["A", "C"]], ("A", "B", "C")),
    ([["A", "</span>", "no"], ["A", "C"]], ("A", "C")),
    (["PC", "Pc", None, "<b>Games</b>", "pc"], ("PC", "Games")),
    (["PC", "</span></span>", "Redeemable", "Free"], ("PC",)),
    (["No expiration, no fees.", "Dr. Seuss", "Inc."], ("Dr. Seuss", "Inc.")),
    (["x" * 61, "y" * 60, "", " ", "<br>"], ("y" * 60,)),
  ],
)
def test_labels_stay_and_junk_goes(raw, cleaned):
  assert clean_categories(raw) == cleaned


@given(st.lists(st.text(st.sampled_from("ab. &;#<>/span\n"), max_size=12)))
def test_cleaning_twice_changes_nothing(raw):
  once = clean_categories(raw)
  assert clean_categories(once) == once
  assert len({label.casefold() for label in once}) == len(once)


def test_the_root_is_what_nearly_all_labelled_items_share():
  shop = items(*[("Shop", "A")] * 30, *[("Shop", "B")] * 9, ("C",), (), ())
  assert root_categories(shop) == {"Shop"}
  assert specific_intentions(shop[-4:-1]) == ["Shop, B", "C", ""]
  assert specific_intentions(shop)[-4:] == ["B", "C", "", ""]
  # 9 of 10 are not nearly all; one item shares nothing with others.
  assert not root_categories(items(*[("Shop",)] * 9, ("C",)))
  assert not root_categories(items(("Shop", "A"), ()))
  assert category_labels([]) == []


def raw_2018(path):
  with gzip.open(path, "rt") as file:
    return [tuple(json.loads(line)["category"]) for line in file]


def test_real_gift_cards_have_hardly_a_label(shared):
  path = shared / "data" / "gift_cards_2018" / "meta_Gift_Cards.json.gz"
  catalogue = items(*raw_2018(path))
  assert root_categories(catalogue) == {"Gift Cards"}
  labels = {label for own in category_labels(catalogue) for label in own}
  # A single selling point, in no markup, passes for a label.
  assert labels == {
    "Gift Card Accessories",
    "Handmade with recycled materials in Los Angeles",
  }


def test_real_instruments_keep_all_but_the_department(shared):
  path = shared / "data" / "musical_instruments_2014"
  with gzip.open(path / "meta_Musical_Instruments.json.gz", "rt") as file:
    raw = [ast.literal_eval(line)["categories"] for line in file]
  catalogue = items(*(clean_categories(paths) for paths in raw))
  assert root_categories(catalogue) == {"Musical Instruments"}
  labels = {label for own in category_labels(catalogue) for label in own}
  assert {"Windsreens & Pop Filters", "Picks"} <= labels
  assert len(labels) == len({c for paths in raw for p in paths for c in p}) - 1
