"""Tests for instructrec_jax/data/cleaning.py."""

import ast
import gzip
import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data.cleaning import (
  category_labels,
  clean_categories,
  clean_title,
  root_categories,
  specific_intentions,
)
from instructrec_jax.records import Item

MARKUP = st.text(
  st.sampled_from(
    "ab 1&;#<>/{}~^\\`\n\tlgtamp\u200b\ud800!-é™="
    "\u0301\u0338\u037e\u1fef\ufe0f\u00ad"
  ),
  max_size=40,
)


@pytest.mark.parametrize(
  ("raw", "cleaned"),
  [
    ("18&quot; Doll &amp; Slippers", '18" Doll & Slippers'),
    ("Tom &amp;amp; Jerry", "Tom & Jerry"),
    ('<span class="a">Gift</span><br/>Card', "Gift Card"),
    ("&lt;b&gt;Bold&lt;/b&gt;", "Bold"),
    ('<span id="productTitle" class="a-size-large', ""),
    ("<span", ""),
    ("</span", ""),
    ("<b></b><br/> <a href=", ""),
    ("&lt;span class=&quot;a-size-large&quot;", ""),
    ("<!-- never closed", ""),
    ('Guitar <span class="a-size', "Guitar"),
    ('<span class="a-size <b>Guitar</b>', "Guitar"),
    ("<a" + " " * 100_000, ""),
    ("Size <Large", "Size Large"),
    ("I <3 New York", "I 3 New York"),
    ("Freshly Picked ~ Tingle", "Freshly Picked Tingle"),
    ("3D > Toy Story", "3D Toy Story"),
    ("Hop `N Cuddle {new} C:\\x", "Hop 'N Cuddle (new) C:/x"),
    ("two\n lines\tof\u00a0it\u200b ", "two lines of it"),
    ("var t0 = new Date().getTime();", ""),
    ("(function(f, b) {var d = b.ue;", ""),
    ("function setup () { return 1", ""),
    ("Multi function (3 in 1) Charger", "Multi function (3 in 1) Charger"),
    ("Wedding function(s) Card", "Wedding function(s) Card"),
    ("function a() &#123;", ""),
    (" -- ", ""),
    ("Gui\u200btar \ufeffS\u00adtrap\u2060", "Guitar Strap"),
    ("Poke\u0301mon", "Pok\u00e9mon"),
    ("&am\u200bp;&amp\u037e A", "&&; A"),
    ("\u200b\u3164\u2800\ufe0f", ""),
    ("\u0301", ""),
    ("Pok&eacute;mon, Episode I", "Pokémon, Episode I"),
  ],
)
def test_titles_become_plain_text(raw, cleaned):
  assert clean_title(raw) == cleaned


@given(MARKUP)
def test_cleaning_is_idempotent_and_leaves_one_printable_line(raw):
  cleaned = clean_title(raw)
  assert clean_title(cleaned) == cleaned
  assert cleaned.isprintable()
  assert cleaned == " ".join(cleaned.split())
  assert not set(cleaned) & set("{}<>~^\\`")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_t5_can_print_every_cleaned_ascii_title(vocabulary, raw):
  assert 2 not in vocabulary.encode(clean_title(raw))


@pytest.fixture(scope="module")
def vocabulary(shared):
  path = shared / "vocab" / "t5" / "spiece.model"
  return sentencepiece.SentencePieceProcessor(model_file=str(path))


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
def test_cleaning_labels_twice_changes_nothing(raw):
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
