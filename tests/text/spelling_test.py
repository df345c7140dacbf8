"""Tests for instructrec_jax/text/spelling.py."""

import itertools

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.text.packed_dataset import pack_pairs
from instructrec_jax.text.spelling import Spelling
from instructrec_jax.text.vocabulary import train_vocabulary

BRANDS = ("Alder", "Borea", "Corvo", "Delta")
KINDS = ("Trail Tent", "Camp Stove", "Rain Jacket")
TITLES = [f"{b} {k}" for b, k in itertools.product(BRANDS, KINDS)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
  texts = [*TITLES, *(f"{t}; {o}" for t, o in itertools.pairwise(TITLES))]
  return train_vocabulary(texts, path, size=120, whole=TITLES)


def test_none_or_all_are_spelled(vocabulary):
  ids = vocabulary.encode_one("; ".join(TITLES))
  assert len(ids) == 2 * len(TITLES) - 1
  assert Spelling(vocabulary, rate=0, seed=0)(ids) == ids
  spelled = Spelling(vocabulary, rate=1, seed=0)(ids)
  assert not set(spelled) & {
    i for t in TITLES for i in vocabulary.encode_one(t)
  }
  assert vocabulary.decode(spelled) == vocabulary.decode(ids)
  # What has no piece of several words stays as it is.
  assert Spelling(vocabulary, rate=1, seed=0)(spelled) == spelled


def test_a_piece_that_begins_or_ends_within_a_word_stays(tmp_path):
  titles = ["Gold Coast", "Bold Coast", "old Coast", "Cold Coast", "Old Coast"]
  vocabulary = train_vocabulary(
    titles * 5, tmp_path / "across.model", size=60, across_words=True
  )
  inner = [
    piece
    for piece in range(3, vocabulary.num_pieces)
    if len(vocabulary.decode([piece]).split()) > 1
    and not vocabulary.pieces([piece]).startswith("\u2581")
  ]
  spelling = Spelling(vocabulary, rate=1, seed=0)
  assert inner and spelling(inner) == inner
  for text in (*titles, "Mold Coast", "Gold Coasts"):
    ids = vocabulary.encode_one(text)
    assert vocabulary.decode(spelling(ids)) == vocabulary.decode(ids)
  assert len(spelling(vocabulary.encode_one("Gold Coast"))) > 1


def test_the_rate_is_the_share_that_is_spelled(vocabulary):
  ids = [vocabulary.encode_one(TITLES[0])[0]] * 2000
  words = vocabulary.spell(TITLES[0])
  spelled = Spelling(vocabulary, rate=0.3, seed=0)(ids)
  share = spelled.count(words[0]) / len(ids)
  assert share == pytest.approx(0.3, abs=0.04)
  assert Spelling(vocabulary, rate=0.3, seed=0)(ids) == spelled
  assert Spelling(vocabulary, rate=0.3, seed=1)(ids) != spelled


def test_packed_texts_stay_what_they_are(vocabulary, tmp_path):
  pairs = [("; ".join(TITLES[:n]), TITLES[n]) for n in range(1, 9)] * 20
  # The longest fits in whole titles alone.
  length = len(vocabulary.encode_one(pairs[-1][0])) + 1
  packed = pack_pairs(
    pairs,
    vocabulary=vocabulary,
    out=tmp_path / "packed",
    encoder_length=length,
    decoder_length=8,
    spelling=Spelling(vocabulary, rate=0.5, seed=0),
  )
  assert packed.manifest["inputs_dropped"] == 0
  assert packed.manifest["targets_cut"] == 0
  batch = packed.batch(np.arange(len(packed)))
  found, lengths = [], set()
  for row in range(len(packed)):
    for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
      source, target = (
        batch[f"{stack}_tokens"][row][
          batch[f"{stack.split('_')[0]}_segment_ids"][row] == segment
        ]
        for stack in ("encoder_input", "decoder_target")
      )
      found.append((vocabulary.decode(source), vocabulary.decode(target)))
      lengths.add(len(target))
  assert sorted(found) == sorted(pairs)
  # With the end: one piece, or the three words.
  assert {2, 4} <= lengths


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate, vocabulary):
  with pytest.raises(InputError, match="spell is"):
    Spelling(vocabulary, rate=rate, seed=0)
