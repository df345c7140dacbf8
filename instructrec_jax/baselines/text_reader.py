"""Texts -> the inputs of towers: word numbers, or vectors of a given model."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from instructrec_jax.baselines import bert
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

  @property
  def flops(self) -> float:
    """Of all that was read so far."""
    ...

  @property
  def sha256(self) -> str:
    """What tells it from other readers of the same texts."""
    ...

  def read(self, texts: Sequence[str]) -> np.ndarray:
    """Returns a row a text."""
    ...

  def forget(self) -> None:
    """Keeps no texts from here on."""
    ...


class WordReader:
  """Numbers a text's words; unknown words are dropped."""

  num_parameters = 0
  flops = 0.0
  sha256 = ""

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

  def forget(self) -> None:
    """Keeps no texts anyway."""


class SentenceReader:
  """Vectors of a given model, which stays frozen.

  Attributes:
    keeps: each text is encoded once, as training reads searches in every epoch;
      where time is measured, it is not kept.
    num_parameters: of the model.
    sha256: of a BERT's weights; of another model its name.
  """

  words = 0

  def __init__(self, name: str):
    """Loads a model.

    Args:
      name: a folder with a BERT (see `bert`); any other model is read by the
        package sentence-transformers, as a folder or a name on the Hugging
        Face hub.

    Raises:
      InputError: there is no such model, or the package is not installed.
    """
    self.keeps = True
    self._vectors: dict[str, np.ndarray] = {}
    self._model: Any
    if bert.is_bert(pathlib.Path(name)):
      self._model = bert.BertEncoder(pathlib.Path(name))
      self.sha256 = self._model.sha256
      self.num_parameters = self._model.num_parameters
      return
    self._model = _sentence_transformer(name)
    self.sha256 = name
    self.num_parameters = sum(p.numel() for p in self._model.parameters())

  @property
  def flops(self) -> float:
    """Of all that was encoded so far; of another model than BERT unknown."""
    return getattr(self._model, "flops", 0.0)

  def read(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
    """Returns vectors of length one; the model reads equal texts once."""
    known = self._vectors
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
      if isinstance(self._model, bert.BertEncoder):
        vectors = self._model.encode(new)
      else:
        vectors = self._model.encode(new, normalize_embeddings=True)
      vectors = np.asarray(vectors, np.float32)
      known = known | dict(zip(new, vectors, strict=True))
      if self.keeps:
        self._vectors = known
    return np.stack([known[text] for text in texts])

  def forget(self) -> None:
    """Keeps no texts from here on."""
    self.keeps, self._vectors = False, {}


def _sentence_transformer(name: str) -> Any:
  try:
    import sentence_transformers
  except ImportError as error:
    raise InputError(
      f"the text encoder {name!r} is no folder with a BERT (config.json, "
      "model.safetensors, tokenizer.json), and for others a package is needed "
      "that is not here: pip install sentence-transformers."
    ) from error
  try:
    return sentence_transformers.SentenceTransformer(name, device="cpu")
  except (OSError, ValueError) as error:
    raise InputError(
      f"{name}: no sentence-transformers model, neither as a folder nor on "
      f"the Hugging Face hub ({str(error).splitlines()[0]})."
    ) from error


def texts_hash(*groups: Sequence[str]) -> str:
  """Returns a hash of groups of texts and their order."""
  digest = hashlib.sha256()
  for texts in groups:
    digest.update(f"{len(texts)}\0".encode())
    for text in texts:
      digest.update(text.encode() + b"\0")
  return digest.hexdigest()
