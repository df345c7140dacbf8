"""The lexical search baselines: BM25 and TF-IDF.

Key to shapes. N: requests or histories, I: items, V: words of the catalogue.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import scipy.sparse
from jaxtyping import Int32

from instructrec_jax.baselines.hard_negatives import top_items
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import Item, RankingRequest

Kind = Literal["bm25", "tfidf"]

# Lucene's defaults.
_K1 = 1.2
_B = 0.75
# As many as the paper shows the model.
_HISTORY = 20
# Bound the dense blocks: rows, and candidates of all rows together.
_ROWS = 256
_PAIRS = 1 << 18

_WORD = re.compile(r"\w+")


class LexicalRanker:
  """Ranks by BM25 or by the cosine of TF-IDF vectors.

  A document is an item's title, which is what a model reads of it; with its
  categories the ranker sees more, as queries of categories (I2) are made of
  them. The search words are the request's query if it has one, without the
  history, whose words would dominate it; else the titles of the last 20 history
  items, taken as one text. It is a `records.Ranker`, and by the history a
  `hard_negatives.Matcher`.
  """

  def __init__(
    self,
    *,
    name: str,
    kind: Kind,
    words: dict[str, int],
    documents: scipy.sparse.csr_array,
    titles: scipy.sparse.csr_array,
    word_weights: np.ndarray,
  ):
    """Takes the index.

    Args:
      name: the ranker's in tables.
      kind: see `fit`.
      words: a number for each word of the catalogue.
      documents: [I, V], term weights of each item, without `word_weights`.
      titles: [I, V], how often each word is in each title.
      word_weights: [V], of the search words.
    """
    self.name = name
    self._kind = kind
    self._words = words
    self._documents_IxV = documents
    self._titles_IxV = titles
    self._word_weights_V = word_weights
    self.num_parameters = documents.nnz + len(word_weights)
    # Of all that was scored so far.
    self.flops = 0.0

  @classmethod
  def fit(
    cls, items: Sequence[Item], *, kind: Kind, categories: bool = False
  ) -> "LexicalRanker":
    """Indexes a catalogue.

    Args:
      items: by item number.
      kind: "bm25" is Okapi's with Lucene's idf, log(1 + (I - df + .5) /
        (df + .5)), k1 = 1.2 and b = .75; "tfidf" weighs a word by its count
        times log((1 + I) / (1 + df)) + 1, as scikit-learn does.
      categories: index the categories beside the title, which no model reads;
        the name then says so.
    """
    words: dict[str, int] = {}
    titles = [tokenize(title) for title in display_titles(items)]
    documents = titles
    if categories:
      documents = [
        title + tokenize(" ".join(item.categories))
        for title, item in zip(titles, items, strict=True)
      ]
    for document in documents:
      for word in document:
        words.setdefault(word, len(words))
    counts_IxV = _count(documents, words)
    in_items_V = np.bincount(counts_IxV.indices, minlength=len(words))
    if kind == "bm25":
      weights_IxV = _saturate(counts_IxV)
      rarity = (len(items) - in_items_V + 0.5) / (in_items_V + 0.5)
      word_weights_V = np.log1p(rarity)
    else:
      word_weights_V = np.log((1 + len(items)) / (1 + in_items_V)) + 1
      weights_IxV = _unit_rows(_scale(counts_IxV, word_weights_V))
    return cls(
      name=f"{kind}_categories" if categories else kind,
      kind=kind,
      words=words,
      documents=weights_IxV,
      titles=_count(titles, words),
      word_weights=word_weights_V,
    )

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    most = max((len(r.candidate_items) for r in requests), default=0)
    rows = max(1, min(_ROWS, _PAIRS // max(1, most)))
    return [
      scores
      for start in range(0, len(requests), rows)
      for scores in self._score_block(requests[start : start + rows])
    ]

  def retrieve(
    self,
    histories: Sequence[np.ndarray],
    *,
    users: Int32[np.ndarray, " n"] | None = None,
    count: int,
    exclude: Sequence[np.ndarray],
  ) -> Int32[np.ndarray, "n count"]:
    """Returns the best of all items for each history; see `Matcher`."""
    del users
    found = [np.empty((0, count), np.int32)]
    for start in range(0, len(histories), _ROWS):
      block = slice(start, start + _ROWS)
      search_NxV = self._weigh(self._history_words(histories[block]))
      scores_IxN = self._documents_IxV @ search_NxV.toarray().T
      found.append(
        top_items(
          np.ascontiguousarray(scores_IxN.T),
          count=count,
          exclude=exclude[block],
        )
      )
    return np.concatenate(found)

  def _score_block(
    self, requests: Sequence[RankingRequest]
  ) -> list[np.ndarray]:
    asked_NxV = _count((tokenize(r.query) for r in requests), self._words)
    bought_NxV = self._history_words(
      [() if r.query else r.history_items for r in requests]
    )
    search_NxV = self._weigh(asked_NxV + bought_NxV).toarray()
    lengths = [len(r.candidate_items) for r in requests]
    candidates = [item for r in requests for item in r.candidate_items]
    pairs_PxV = self._documents_IxV[np.array(candidates, np.int64)]
    row_P = np.repeat(np.arange(len(requests)), lengths)
    row = np.repeat(row_P, np.diff(pairs_PxV.indptr))
    self.flops += 2.0 * pairs_PxV.nnz
    pairs_PxV.data *= search_NxV[row, pairs_PxV.indices]
    # Titles of the same words in another order tie, but for their last digits.
    scores_P = pairs_PxV.sum(axis=1).round(9)
    return np.split(scores_P, np.cumsum(lengths)[:-1])

  def _history_words(
    self, histories: Sequence[Sequence[int] | np.ndarray]
  ) -> scipy.sparse.csr_array:
    recent = [history[-_HISTORY:] for history in histories]
    bought_NxI = _rows(recent, width=len(self._titles_IxV.indptr) - 1)
    return bought_NxI @ self._titles_IxV

  def _weigh(self, counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    search = _scale(counts, self._word_weights_V)
    return _unit_rows(search) if self._kind == "tfidf" else search


def tokenize(text: str) -> list[str]:
  """Returns the words of a text, without their case."""
  return _WORD.findall(text.casefold())


def _count(
  texts: Iterable[list[str]], words: dict[str, int]
) -> scipy.sparse.csr_array:
  """Returns the term counts of each text; unknown words are dropped."""
  numbers = [[words[w] for w in text if w in words] for text in texts]
  return _rows(numbers, width=len(words))


def _rows(
  columns: Sequence[Sequence[int] | np.ndarray], *, width: int
) -> scipy.sparse.csr_array:
  """Returns a matrix that counts each row's columns."""
  ends = np.cumsum([0, *map(len, columns)])
  indices = np.concatenate([np.empty(0, np.int64), *columns]).astype(np.int64)
  matrix = scipy.sparse.csr_array(
    (np.ones(len(indices)), indices, ends), shape=(len(columns), width)
  )
  matrix.sum_duplicates()
  return matrix


def _saturate(counts_IxV: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  """Applies Okapi's saturation of counts and length normalisation."""
  lengths_I = counts_IxV.sum(axis=1)
  norm_I = _K1 * (1 - _B + _B * lengths_I / (lengths_I.mean() or 1))
  weights = counts_IxV.copy()
  norm = np.repeat(norm_I, np.diff(weights.indptr))
  weights.data *= (_K1 + 1) / (weights.data + norm)
  return weights


def _scale(
  counts_NxV: scipy.sparse.csr_array, weights_V: np.ndarray
) -> scipy.sparse.csr_array:
  scaled = counts_NxV.copy()
  scaled.data *= weights_V[scaled.indices]
  return scaled


def _unit_rows(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  """Divides each row by its L2 norm; empty rows stay empty."""
  lengths = np.sqrt((matrix * matrix).sum(axis=1))
  unit = matrix.copy()
  unit.data /= np.repeat(lengths, np.diff(matrix.indptr))
  return unit
