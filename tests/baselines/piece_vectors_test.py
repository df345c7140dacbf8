"""Tests for instructrec_jax/baselines/piece_vectors.py."""

import types

import numpy as np
import pytest

from instructrec_jax.baselines.piece_vectors import piece_vectors
from instructrec_jax.baselines.svd import SvdRanker
from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.text.vocabulary import EOS_ID, train_vocabulary

from .shelves import shelf_folder


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
  path = tmp_path_factory.mktemp("shelves")
  folder = shelf_folder(path)
  titles = [item.title for item in folder.items]
  return folder, train_vocabulary(titles, path / "vocabulary.model", size=99)


def test_pieces_count_training_purchases(shelves):
  folder, vocabulary = shelves
  pieces = piece_vectors(folder, vocabulary, rows=256, width=16)
  assert pieces.parts_PxD.shape == pieces.means_PxD.shape == (256, 16)
  training = folder.splits.training_mask(folder.sequences)
  assert pieces.counts_P[EOS_ID] == training.sum()
  items = folder.sequences.items[training]
  titles = [folder.items[i].title for i in items]
  (alder,) = vocabulary.encode_one("Alder")
  assert pieces.counts_P[alder] == sum(t.startswith("Alder ") for t in titles)
  unseen = pieces.counts_P == 0
  assert not pieces.parts_PxD[unseen].any()
  assert not pieces.means_PxD[unseen].any()
  # Who buys a brand buys more of it, whatever the kind.
  brands = [vocabulary.encode_one(b)[0] for b in ("Alder", "Borea", "Corvo")]
  for vectors in (pieces.parts_PxD, pieces.means_PxD):
    products = vectors[brands] @ vectors[brands].T
    assert (products.argmax(1) == np.arange(3)).all()


def test_parts_add_up_to_their_titles_items(shelves):
  folder, vocabulary = shelves
  count = len(folder.items)
  ranker = SvdRanker.fit(
    folder.sequences, num_items=count, splits=folder.splits, width=16
  )
  pieces = piece_vectors(folder, vocabulary, rows=256, width=16)
  bought = np.unique(
    folder.sequences.items[folder.splits.training_mask(folder.sequences)]
  )
  sums = np.stack(
    [
      pieces.parts_PxD[sorted({*vocabulary.encode_one(item.title)})].sum(0)
      for item in folder.items
    ]
  )[bought]
  items = ranker._vectors[bought]
  error = np.square(sums - items).sum() / np.square(items).sum()
  # Means of parts, or parts of others' titles, are worse than nothing.
  assert error < 0.5
  means = np.stack(
    [
      pieces.means_PxD[vocabulary.encode_one(i.title)].sum(0)
      for i in folder.items
    ]
  )[bought]
  assert error < np.square(means - items).sum() / np.square(items).sum()


def test_a_whole_title_and_its_words_both_have_vectors(shelves, tmp_path):
  folder, _ = shelves
  titles = [item.title for item in folder.items]
  vocabulary = train_vocabulary(
    titles, tmp_path / "whole.model", size=99, whole=titles
  )
  pieces = piece_vectors(folder, vocabulary, rows=256, width=16)
  training = folder.splits.training_mask(folder.sequences)
  bought = np.unique(folder.sequences.items[training])
  for item in bought.tolist():
    (whole,) = vocabulary.encode_one(titles[item])
    spelled = vocabulary.spell(titles[item])
    for ids in ([whole], spelled):
      assert pieces.parts_PxD[ids].any(1).all()
    one, other = (pieces.parts_PxD[i].sum(0) for i in ([whole], spelled))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine > 0.5
  # The bias of the output layer: titles are seldom said in words.
  counts = np.bincount(folder.sequences.items[training], minlength=len(titles))
  for item in bought.tolist():
    (whole,) = vocabulary.encode_one(titles[item])
    assert pieces.counts_P[whole] == counts[item]
  (alder,) = vocabulary.encode_one("Alder")
  of_alder = sum(
    int(n) for n, t in zip(counts, titles, strict=True) if "Alder" in t
  )
  assert pieces.counts_P[alder] == np.ceil(of_alder / 10)


def two_shelves(tmp_path, titles, users):
  """Piece vectors of Alder 0 to 8 and Borea 0 to 9, which two groups buy."""
  shelf = [[*range(9)], [*range(10, 20)]]
  users = [[*shelf[u % 2], *shelf[u % 2][:2]] for u in range(40)] + users
  sequences = Sequences(
    items=np.array([i for items in users for i in items], np.int32),
    offsets=np.cumsum([0, *map(len, users)]),
  )
  folder = types.SimpleNamespace(
    items=[types.SimpleNamespace(title=title) for title in titles],
    sequences=sequences,
    splits=leave_one_out(sequences),
  )
  vocabulary = train_vocabulary(
    titles, tmp_path / "vocabulary.model", size=40, whole=titles
  )
  pieces = piece_vectors(folder, vocabulary, rows=128, width=2)

  def product(one, other):
    ids = [vocabulary.encode_one(title)[0] for title in (one, other)]
    return np.prod(pieces.parts_PxD[ids], axis=0).sum()

  return folder, product


BOTH = [f"{brand} {n}" for brand in ("Alder", "Borea") for n in range(10)]


def test_a_title_of_two_items_is_more_that_of_the_more_bought_one(tmp_path):
  borea = [[10, 11, 12, 20, 13, 14] for _ in range(6)]
  _, product = two_shelves(tmp_path, [*BOTH, "Alder 0"], borea)
  # Twenty bought it on one shelf, six on the other.
  assert product("Alder 0", "Alder 1") > 2 * product("Alder 0", "Borea 1") > 0


def test_a_title_that_nobody_bought_has_the_vector_of_its_words(tmp_path):
  _, product = two_shelves(tmp_path, BOTH, [])
  assert product("Alder 9", "Alder 0") > product("Alder 9", "Borea 0")


def test_a_title_that_few_bought_is_known_by_its_words(tmp_path):
  # Nobody but one bought Alder 9, with what is of the other shelf.
  folder, product = two_shelves(
    tmp_path, BOTH, [[10, 11, 12, 13, 14, 9, 10, 11]]
  )
  assert product("Alder 9", "Alder 0") > product("Alder 9", "Borea 0")
  # As by its own purchases it is of the other shelf.
  ranker = SvdRanker.fit(
    folder.sequences, num_items=20, splits=folder.splits, width=2
  )
  own, other = ranker._vectors[[0, 10]] @ ranker._vectors[9]
  assert own < other


@pytest.fixture(scope="module")
def worded(shelves, tmp_path_factory):
  """Vectors of words alone, where whole titles are pieces."""
  folder, _ = shelves
  titles = [item.title for item in folder.items]
  path = tmp_path_factory.mktemp("worded") / "vocabulary.model"
  asked = "please name a brand for: {query}"
  vocabulary = train_vocabulary([*titles, asked], path, size=150, whole=titles)

  def vectors(*templates):
    pieces = piece_vectors(
      folder, vocabulary, rows=256, width=4, words=12, templates=templates
    )
    return pieces.parts_PxD[:, 4:], pieces.means_PxD[:, 4:]

  return titles, vocabulary, vectors


def test_a_word_that_is_asked_for_finds_the_titles_that_have_it(worded):
  titles, vocabulary, vectors = worded
  read, said = vectors()
  whole = [vocabulary.encode_one(title)[0] for title in titles]
  for word in ("rope", "Alder"):
    asked = read[vocabulary.spell(word)].sum(0)
    has_it = np.array([word in title.split() for title in titles])
    scores = said[whole] @ asked
    assert scores[has_it].min() > scores[~has_it].max()


def test_a_title_that_was_bought_asks_for_no_words(worded):
  titles, vocabulary, vectors = worded
  read, _ = vectors()
  assert not read[[vocabulary.encode_one(title)[0] for title in titles]].any()


def test_what_every_template_says_is_no_wish(worded):
  _, vocabulary, vectors = worded
  lengths = [
    np.linalg.norm(vectors(*templates)[0][vocabulary.spell("rope")])
    for templates in ((), ["a rope: {query}", "{query}"], ["a rope [[{rope}]]"])
  ]
  assert lengths[0] > lengths[1] > lengths[2] == 0
  # Slots are no words.
  slots = vectors("{rope}")[0][vocabulary.spell("rope")]
  assert np.linalg.norm(slots) == pytest.approx(lengths[0])


def test_more_features_than_titles_have_are_zeros(shelves):
  folder, vocabulary = shelves
  pieces = piece_vectors(folder, vocabulary, rows=256, width=4, words=200)
  assert pieces.parts_PxD.shape == (256, 204)
  assert np.isfinite(pieces.parts_PxD).all()
  assert pieces.parts_PxD.any(0).sum() <= 4 + len(folder.items)
