"""Vocabularies that need no shared data."""

import io
import random

import pytest
import sentencepiece

from instructrec_jax.text.vocabulary import Vocabulary, train_vocabulary


def sentences(count: int, *, seed: int = 0) -> list[str]:
  """Returns made-up sentences over a few hundred words and numbers."""
  rng = random.Random(seed)
  words = [
    "".join(rng.choices("etaoinshrdlucmé", k=rng.randint(2, 9)))
    for _ in range(300)
  ]
  return [
    " ".join(rng.choices(words, k=8)) + f", no. {rng.randint(0, 999)}!"
    for _ in range(count)
  ]


def train(path, **options) -> Vocabulary:
  """Trains a unigram model as T5's was, but for the options."""
  model = io.BytesIO()
  defaults = dict(
    model_type="unigram", vocab_size=400, pad_id=0, eos_id=1, unk_id=2
  )
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences(500)),
    model_writer=model,
    bos_id=-1,
    num_threads=1,
    minloglevel=2,
    hard_vocab_limit=False,
    **(defaults | options),
  )
  path.write_bytes(model.getvalue())
  return Vocabulary.load(path)


@pytest.fixture(scope="session")
def train_model():
  """`train`: a function of a path and options of SentencePiece's trainer."""
  return train


@pytest.fixture(scope="session")
def corpus() -> list[str]:
  """500 sentences."""
  return sentences(500)


@pytest.fixture(scope="session")
def byte_pair(tmp_path_factory, corpus) -> Vocabulary:
  """A vocabulary of `train_vocabulary`."""
  path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
  return train_vocabulary(corpus, path, size=400)


@pytest.fixture(scope="session")
def unigram(tmp_path_factory) -> Vocabulary:
  """A vocabulary of T5's kind."""
  return train(tmp_path_factory.mktemp("vocabulary") / "unigram.model")


@pytest.fixture(scope="session")
def folded(tmp_path_factory, corpus) -> Vocabulary:
  """One of `train_vocabulary` that reads capital letters as small ones."""
  path = tmp_path_factory.mktemp("folded") / "vocabulary.model"
  return train_vocabulary(corpus, path, size=400, fold_case=True)
