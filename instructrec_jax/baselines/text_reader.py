"""Texts -> the inputs of towers: word numbers, or vectors of a given model."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from instructrec_jax.baselines.lexical import tokenize
from instructrec_jax.errors import InputError

# Longer texts are truncated.
_MAX_WORDS = 32


class TextReader(Protocol):
  """Turns texts into arrays of one width."""

  @property
  def words(self) -> int:
    """Size of the vocabulary; 0 if texts become vectors."""
    ...

  @property
  def num_parameters(self) -> int:
    """How many weights it has of its own."""
    ...

  def read(self, texts: Sequence[str]) -> np.ndarray:
    """Returns a row a text."""
    ...


class WordReader:
  """Numbers a text's words; unknown words are dropped."""

  num_parameters = 0

  def __init__(self, texts: Sequence[str]):
    """Learns the words of all texts."""
    self._numbers: dict[str, int] = {}
    longest = 1
    for text in texts:
      words = tokenize(text)
      longest = max(longest, len(words))
      for word in words:
        self._numbers.setdefault(word, len(self._numbers) + 1)
    self._longest = min(longest, _MAX_WORDS)

  @property
  def words(self) -> int:
    """Size of the vocabulary; words are numbered from 1."""
    return len(self._numbers)

  def read(self, texts: Sequence[str]) -> Int32[np.ndarray, "n words"]:
    """Returns word numbers, rows padded with 0."""
    rows = np.zeros((len(texts), self._longest), np.int32)
    for row, text in zip(rows, texts, strict=True):
      known = [
        self._numbers[word] for word in tokenize(text) if word in self._numbers
      ][: self._longest]
      row[: len(known)] = known
    return rows


class SentenceReader:
  """Vectors of a sentence-transformers model, which stays frozen."""

  words = 0
  num_parameters = 0

  def __init__(self, name: str):
    """Loads a model.

    Args:
      name: a folder, or a name on the Hugging Face hub.

    Raises:
      InputError: the package is not installed, or there is no such model.
    """
    try:
      import sentence_transformers
    except ImportError as error:
      raise InputError(
        f"the text encoder {name!r} needs a package that is not here: pip "
        "install sentence-transformers."
      ) from error
    try:
      self._model: Any = sentence_transformers.SentenceTransformer(
        name, device="cpu"
      )
    except (OSError, ValueError) as error:
      raise InputError(
        f"{name}: no sentence-transformers model, neither as a folder nor on "
        f"the Hugging Face hub ({str(error).splitlines()[0]})."
      ) from error
    # Searches are read again in every epoch.
    self._vectors: dict[str, np.ndarray] = {}

  def read(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
    """Returns vectors of length one; the model reads each text once."""
    new = list(dict.fromkeys(t for t in texts if t not in self._vectors))
    if new:
      vectors = self._model.encode(new, normalize_embeddings=True)
      self._vectors.update(
        zip(new, np.asarray(vectors, np.float32), strict=True)
      )
    return np.stack([self._vectors[text] for text in texts])


def texts_hash(*groups: Sequence[str]) -> str:
  """Returns a hash of groups of texts and their order."""
  digest = hashlib.sha256()
  for texts in groups:
    digest.update(f"{len(texts)}\0".encode())
    for text in texts:
      digest.update(text.encode() + b"\0")
  return digest.hexdigest()
