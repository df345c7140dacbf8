"""A tiny model with random weights, and requests for it."""

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.records import RankingRequest
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training.state import TrainState

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
    num_heads=8,
    head_dim=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=64,
  )


@pytest.fixture(scope="session")
def params(config):
  rng = np.random.default_rng(0)

  def draw(shape):
    scale = shape.shape[0] ** -0.5 if len(shape.shape) > 1 else 1.0
    return rng.normal(0, scale, shape.shape).astype(np.float32)

  return jax.tree.map(draw, parameters.parameter_shapes(config))


@pytest.fixture(scope="session")
def title_counts(requests):
  """Purchases of some of the candidates; the others have none."""
  titles = sorted({title for r in requests for title in r.candidates})
  return {title: 3 * n**2 for n, title in enumerate(titles) if n % 3}


@pytest.fixture(scope="session")
def requests():
  """40 requests of 1 to 7 candidates, lengths mixed."""
  rng = np.random.default_rng(1)

  def text(low, high):
    return " ".join(rng.choice(WORDS, rng.integers(low, high)))

  return [
    RankingRequest(
      request_id=str(number),
      instruction=text(3, 40),
      candidates=tuple(text(1, 6) for _ in range(rng.integers(1, 8))),
      target=0,
    )
    for number in range(40)
  ]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, config, params, vocabulary):
  path = tmp_path_factory.mktemp("model")
  model_folder.save_config(path, config)
  (path / "vocabulary.model").write_bytes(vocabulary.path.read_bytes())
  checkpoints = Checkpoints(path, best_metric=model_folder.BEST_METRIC)
  params = jax.device_put(params)
  state = TrainState(
    step=jax.numpy.int32(3),
    params=params,
    optimizer_state=optax.sgd(0.1).init(params),
  )
  checkpoints.save(state, metrics={model_folder.BEST_METRIC: 0.5})
  checkpoints.close()
  return path
