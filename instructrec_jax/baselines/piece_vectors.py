"""Vectors of a vocabulary's pieces that a T5 of random weights can start from.

The first features tell what is bought together: those of `baselines.svd`. The
others tell which words titles have: latent semantic analysis (Deerwester et
al., 1990), by which a wish finds titles. Nothing held out is counted.

Key to shapes. I: items, P: pieces, E: features, D: all of them.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float32, Int64

from instructrec_jax.baselines import svd
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

WORDS = 128
"""Of the features of words; 192 found no more on musical_instruments_2014."""
# Of the regression of items' vectors on their titles' pieces, chosen on
# games_2018's validation targets.
_RIDGE = 1.0
# Purchases after which an item's own vector counts as much as its words.
_TRUSTED = 10.0
# Of the purchases of a title that is one piece, what its words are said for.
_SPELLED = 0.1
# Of a title's words beside what is bought with it, and of a word that is asked
# for beside one of a title's: a wish is shorter. Of .6 to 1 and 1 to 3 none was
# clearly better on musical_instruments_2014's validation wishes.
_SHARE = 0.6
_ASKED = 3.0


@dataclasses.dataclass(frozen=True)
class PieceVectors:
  """What a vocabulary's pieces tell of the items whose titles have them.

  Attributes:
    parts_PxD: vectors whose sum over a title's pieces is about its item's: a
      brand's name has much of it, a comma next to nothing.
    means_PxD: the mean vector of the purchases whose titles have the piece.
    counts_P: purchases that are said with it.
  """

  parts_PxD: Float32[np.ndarray, "pieces width"]
  means_PxD: Float32[np.ndarray, "pieces width"]
  counts_P: Int64[np.ndarray, " pieces"]


def piece_vectors(
  folder: DatasetFolder,
  vocabulary: Vocabulary,
  *,
  rows: int,
  width: int = svd.WIDTH,
  words: int = 0,
  templates: Sequence[str] = (),
) -> PieceVectors:
  """Spreads items' vectors over the pieces of their titles.

  The parts of what is bought together are a ridge regression of items' unit
  vectors on which pieces their titles have, an item weighing the log of its
  training purchases and one. A title that is one piece is read in its words
  there; its piece then gets the item's own vector and what its words add up to,
  the former weighing n / (n + 10) with n purchases, so that a title that few
  bought is known by its words.

  The features of words are factors of which title has which, a word weighing
  its inverse document frequency: in titles or in templates, whichever share is
  added. A title that is one piece is said with them, and read without.

  Pieces that no title has get zeros. The end of a sequence is bought with every
  title, and has no vector.

  Args:
    folder: whose training interactions and titles count.
    vocabulary: of the pieces.
    rows: of the result, at least the vocabulary's ids.
    width: features of what is bought together.
    words: features of the words of titles, which come after those.
    templates: texts whose words are said with whatever is asked.
  """
  titles = display_titles(folder.items)
  bought = svd.purchases(folder.sequences, len(titles), folder.splits)
  purchases_I = np.asarray(bought.sum(0)).ravel()
  items_IxE = svd.unit(svd.factored(svd.ppmi(bought.T @ bought), width))
  written = vocabulary.encode(titles)
  is_whole_I = np.array(
    [
      len(ids) == 1 and vocabulary.spell(title) != ids
      for title, ids in zip(titles, written, strict=True)
    ]
  )
  spelled = [
    vocabulary.spell(title) if is_whole else ids
    for title, ids, is_whole in zip(titles, written, is_whole_I, strict=True)
  ]
  pieces = _indicator(spelled, rows)
  weights = scipy.sparse.diags_array(np.log1p(purchases_I))
  normal = pieces.T @ weights @ pieces + _RIDGE * scipy.sparse.eye_array(rows)
  sums = pieces.T @ (weights @ items_IxE)
  parts_PxE = np.stack(
    [
      scipy.sparse.linalg.cg(normal, sums[:, k], rtol=1e-4, maxiter=60)[0]
      for k in range(width)
    ],
    axis=1,
  )
  own_I = (purchases_I / (purchases_I + _TRUSTED))[:, None]
  items_IxE = svd.unit(own_I * items_IxE + (1 - own_I) * (pieces @ parts_PxE))
  of_items, of_words = _word_vectors(
    pieces, _said(vocabulary, templates, rows), words
  )
  items_IxD = np.concatenate([items_IxE, _SHARE * of_items], axis=1)
  parts_PxD = np.concatenate([parts_PxE, _SHARE * _ASKED * of_words], axis=1)
  totals = pieces.T @ (purchases_I[:, None] * items_IxD)
  counts = np.asarray(pieces.T @ purchases_I)
  means_PxD = totals / np.maximum(counts, 1)[:, None]
  # Words count fully where titles are written in them.
  said_I = purchases_I * np.where(is_whole_I, _SPELLED, 1)
  whole = _indicator(
    [ids if w else [] for ids, w in zip(written, is_whole_I, strict=True)], rows
  )
  counts = np.ceil(pieces.T @ said_I + whole.T @ purchases_I).astype(np.int64)
  # Of items with one title; of one that nobody bought, its words'.
  totals = whole.T @ ((purchases_I + 1e-6)[:, None] * items_IxD)
  of_titles = np.concatenate(
    [svd.unit(totals[:, :width]), _SHARE * svd.unit(totals[:, width:])], axis=1
  )
  is_whole_P = np.asarray(whole.sum(0)).ravel() > 0
  means_PxD[is_whole_P] = of_titles[is_whole_P]
  # Who bought a title, or is shown it in a list, does not ask for its words.
  of_titles[:, width:] = 0
  parts_PxD[is_whole_P] = of_titles[is_whole_P]
  counts[EOS_ID] = int(bought.sum())
  return PieceVectors(
    parts_PxD.astype(np.float32), means_PxD.astype(np.float32), counts
  )


def _word_vectors(
  pieces: scipy.sparse.csr_array, said_P: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns unit vectors of titles, and of pieces that about add up to them.

  Args:
    pieces: [I, P]; 1 where a title has a piece.
    said_P: the share of templates that have it.
    width: of the vectors.
  """
  counts_P = np.asarray(pieces.sum(0)).ravel()
  shares_P = (counts_P + 0.5) / len(pieces.indptr) + said_P
  weights_P = np.where(counts_P > 0, np.maximum(-np.log(shares_P), 0), 0)
  weighted = pieces @ scipy.sparse.diags_array(weights_P)
  lengths_I = np.asarray(scipy.sparse.linalg.norm(weighted, axis=1))
  titles = scipy.sparse.diags_array(1 / np.maximum(lengths_I, 1e-9)) @ weighted
  together = scipy.sparse.csr_array(titles.T @ titles)
  axes_PxE = svd.factored(together, width)
  axes_PxE /= np.linalg.norm(axes_PxE, axis=0) + 1e-9
  usual = np.median(lengths_I[lengths_I > 0]) if lengths_I.any() else 1.0
  return svd.unit(titles @ axes_PxE), weights_P[:, None] * axes_PxE / usual


def _said(
  vocabulary: Vocabulary, templates: Sequence[str], rows: int
) -> np.ndarray:
  """Returns [P]: the share of templates that have each piece."""
  texts = [re.sub(r"\{\w*\}|\[\[|\]\]", " ", text) for text in templates]
  found = _indicator([vocabulary.spell(text) for text in texts], rows)
  return np.asarray(found.sum(0)).ravel() / max(len(texts), 1)


def _indicator(
  texts: Sequence[Sequence[int]], columns: int
) -> scipy.sparse.csr_array:
  """Returns [texts, columns]: 1 where a text has a piece, but for its end."""
  rows = [sorted({*ids} - {EOS_ID}) for ids in texts]
  ends = np.cumsum([0, *map(len, rows)])
  indices = np.array([i for row in rows for i in row], np.int64)
  ones = np.ones(len(indices), np.float32)
  return scipy.sparse.csr_array(
    (ones, indices, ends), shape=(len(rows), columns)
  )
