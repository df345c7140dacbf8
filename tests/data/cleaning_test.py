"""Tests for instructrec_jax/data/cleaning.py."""

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data.cleaning import clean_title

MARKUP = st.text(
  st.sampled_from("ab 1&;#<>/{}~^\\`\n\tlgtamp\u200b\ud800!-é™"), max_size=40
)


@pytest.mark.parametrize(
  ("raw", "cleaned"),
  [
    ("18&quot; Doll &amp; Slippers", '18" Doll & Slippers'),
    ("Tom &amp;amp; Jerry", "Tom & Jerry"),
    ('<span class="a">Gift</span><br/>Card', "Gift Card"),
    ("&lt;b&gt;Bold&lt;/b&gt;", "Bold"),
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
    (" -- ", ""),
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
