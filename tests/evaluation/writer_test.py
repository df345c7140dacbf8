"""Tests for instructrec_jax/evaluation/writer.py."""

import numpy as np

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.evaluation.writer import ModelWriter
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.text.vocabulary import Vocabulary


def test_what_is_found_is_among_the_ten_that_are_likeliest(built, tiny_model):
  titles = display_titles(DatasetFolder.open(built).items)
  instructions = ["Search: a tent", "Search: a blue kayak"]
  requests = [
    RankingRequest(text, text, tuple(titles)) for text in instructions
  ]
  writer = ModelWriter(T5Ranker.load(tiny_model))
  for text, scores in zip(
    instructions, T5Ranker.load(tiny_model).score(requests), strict=True
  ):
    order = np.argsort(-scores)
    items = [*order[:10], *order[10:20]]
    found = writer.finds([text] * 20, titles, items)
    assert found.tolist() == [1] * 10 + [0] * 10


def test_texts_are_no_longer_than_asked(tiny_model):
  words = Vocabulary.load(tiny_model / "vocabulary.model")
  writer = ModelWriter(T5Ranker.load(tiny_model))
  (text,) = writer.write(["Search: a tent"], 4)
  (longer,) = writer.write(["Search: a tent"], 32)
  # One more: the end of sequence.
  assert words.count_tokens(text) <= 5 < words.count_tokens(longer)
