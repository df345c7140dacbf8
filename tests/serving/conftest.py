"""A tiny model with random weights, and a shop for it."""

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training.state import TrainState


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
  """A dataset folder of a few hundred items."""
  path = tmp_path_factory.mktemp("data") / "shop"
  prepare(format="synthetic", users=60, min_count=2, out=path)
  return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, shop):
  """A folder of `train`, of a model that has learned nothing."""
  path = tmp_path_factory.mktemp("model") / "tiny"
  path.mkdir()
  texts = [template.text for template in load_templates()]
  texts += [item.title for item in DatasetFolder.open(shop).items]
  texts += ["I want something scary for tonight", "The user likes calm boats"]
  vocabulary = train_vocabulary(texts, path / "vocabulary.model", size=600)
  config = T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
  )
  model_folder.save_config(path, config)
  rng = np.random.default_rng(0)

  def draw(shape):
    scale = shape.shape[0] ** -0.5 if len(shape.shape) > 1 else 1.0
    return rng.normal(0, scale, shape.shape).astype(np.float32)

  params = jax.tree.map(draw, parameters.parameter_shapes(config))
  checkpoints = Checkpoints(path, best_metric=model_folder.BEST_METRIC)
  checkpoints.save(
    TrainState(
      step=jax.numpy.int32(7),
      params=params,
      optimizer_state=optax.sgd(0.1).init(params),
    ),
    metrics={},
  )
  checkpoints.close()
  return path


@pytest.fixture(scope="session")
def recommender(model_dir, shop):
  """Both, loaded."""
  return Recommender.load(model_dir, dataset=shop)
