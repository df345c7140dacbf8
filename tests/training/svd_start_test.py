"""Tests for instructrec_jax/training/svd_start.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.baselines.svd import PieceVectors
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.training.svd_start import svd_start

CONFIG = T5Config(
  vocab_size=128,
  emb_dim=32,
  num_heads=4,
  head_dim=8,
  num_encoder_layers=2,
  num_decoder_layers=2,
  mlp_dim=32,
  dropout_rate=0.0,
)
# Three shelves of ten tokens each, from 3 on; the rest is unknown.
SHELF = np.repeat(np.arange(3), 10)
KNOWN = np.arange(3, 33)


@pytest.fixture(scope="module")
def start():
  vectors = np.zeros((128, 31), np.float32)
  rng = np.random.default_rng(0)
  vectors[KNOWN] = 3 * np.eye(31)[SHELF] + 0.01 * rng.normal(size=(30, 31))
  counts = np.zeros(128, int)
  counts[KNOWN] = 10 + np.arange(30) % 10 * 20
  vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
  pieces = PieceVectors(vectors, vectors, counts)
  return svd_start(CONFIG, pieces, seed=1), counts


def log_probabilities(params, tokens):
  ids = jnp.array([tokens])
  one = jnp.array([[0]])
  logits = Transformer(CONFIG).apply(
    {"params": params}, ids, one, one + 1, enable_dropout=False
  )
  return np.asarray(jax.nn.log_softmax(logits))[0, 0]


def test_the_tree_is_that_of_random_weights(start):
  params, _ = start
  shapes = parameters.parameter_shapes(CONFIG)
  assert jax.tree.structure(params) == jax.tree.structure(shapes)
  for leaf, shape in zip(
    jax.tree.leaves(params), jax.tree.leaves(shapes), strict=True
  ):
    assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    assert np.isfinite(leaf).all()


def test_what_goes_together_is_likely_before_any_step(start):
  params, _ = start
  for shelf in range(3):
    history = KNOWN[SHELF == shelf]
    log_p = log_probabilities(params, [*history[:4], 1])[KNOWN]
    log_p = log_p.reshape(3, 10)
    # Titles of the same number of purchases: the shelf decides.
    assert (log_p.argmax(0) == shelf).all()
    # On a shelf, purchases do.
    assert (np.diff(log_p[shelf]) > 0).mean() > 0.8


def test_an_unknown_token_is_not_preferred(start):
  params, _ = start
  log_p = log_probabilities(params, [*KNOWN[:4], 1])
  assert log_p[40:].max() < log_p[KNOWN[:10]].min()


def test_what_says_little_of_a_title_changes_little(start):
  params, counts = start
  filler = 100
  params = jax.tree.map(np.copy, params)
  params["token_embedder"]["embedding"][filler, 1:] = 0
  history = [*KNOWN[:3]]
  alone = log_probabilities(params, [*history, 1])[KNOWN]
  among = log_probabilities(params, [*history, *[filler] * 3, 1])[KNOWN]
  other = log_probabilities(params, [*history, *KNOWN[10:13], 1])[KNOWN]
  assert np.abs(among - alone).max() < np.abs(other - alone).max() / 2


def test_equal_seeds_give_equal_weights(start):
  _, counts = start
  vectors = np.zeros((128, 31), np.float32)
  pieces = PieceVectors(vectors, vectors, counts)
  one, other = (svd_start(CONFIG, pieces, seed=s) for s in (1, 1))
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"num_heads": 2}, "NUM_HEADS x HEAD_DIM"),
    ({"logits_via_embedding": True}, "leave out"),
    ({"lora_rank": 2}, "leave out"),
  ],
)
def test_refuses_a_model_that_cannot_hand_on_what_it_gathers(change, says):
  config = dataclasses.replace(CONFIG, **change)
  with pytest.raises(InputError, match=says):
    nothing = np.zeros((128, 31), np.float32)
    pieces = PieceVectors(nothing, nothing, np.ones(128, int))
    svd_start(config, pieces, seed=0)
