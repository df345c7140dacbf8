"""A tiny model, of random weights and briefly trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.text.vocabulary import EOS_ID, train_vocabulary

WORDS = "tent stove lantern kayak paddle rope helmet saddle pump green".split()


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
  texts = [f"{a} {b}" for a in WORDS for b in WORDS]
  path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
  return train_vocabulary(texts, path, size=60)


@pytest.fixture(scope="session")
def config(vocabulary):
  return T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=32,
    num_heads=4,
    head_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=64,
  )


@pytest.fixture(scope="session")
def random_params(config):
  rng = np.random.default_rng(0)

  def draw(shape):
    scale = shape.shape[0] ** -0.5 if len(shape.shape) > 1 else 1.0
    return rng.normal(0, scale, shape.shape).astype(np.float32)

  return jax.tree.map(draw, parameters.parameter_shapes(config))


@pytest.fixture(scope="session")
def params(config, random_params, vocabulary):
  """Trained, a little, to repeat the first words of an instruction."""
  rng = np.random.default_rng(3)
  network, optimizer = Transformer(config), optax.adam(3e-3)

  def loss_of(params, inputs, targets):
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = network.apply(
      {"params": params}, inputs, shifted, targets, enable_dropout=False
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.where(targets > 0, losses, 0).sum() / (targets > 0).sum()

  @jax.jit
  def step(params, state, inputs, targets):
    gradients = jax.grad(loss_of)(params, inputs, targets)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  params, state = random_params, optimizer.init(random_params)
  for _ in range(120):
    inputs = np.zeros((32, 24), np.int32)
    targets = np.zeros((32, 16), np.int32)
    for row, answer in zip(inputs, targets, strict=True):
      words = rng.choice(WORDS, rng.integers(1, 9))
      for into, text in ((row, words), (answer, words[: len(words) // 2 + 1])):
        ids = [*vocabulary.encode_one(" ".join(text)), EOS_ID][: len(into)]
        into[: len(ids)] = ids
    params, state = step(params, state, inputs, targets)
  return jax.tree.map(np.asarray, params)


@pytest.fixture(scope="session")
def instructions():
  rng = np.random.default_rng(1)
  return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(100)]


@pytest.fixture(scope="session")
def titles():
  rng = np.random.default_rng(2)
  drawn = {" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(40)}
  return sorted(drawn)
