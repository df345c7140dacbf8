"""Our network beside T5X's own, whose files are loaded without its package."""

import functools
import importlib.util
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer

SIZES = {
  "vocab_size": 64,
  "emb_dim": 16,
  "num_heads": 4,
  "num_encoder_layers": 2,
  "num_decoder_layers": 2,
  "head_dim": 6,
  "mlp_dim": 24,
  "mlp_activations": ("gelu", "linear"),
}


def _t5x_folder() -> pathlib.Path | None:
  if checkout := os.environ.get("INSTRUCTREC_T5X"):
    folder = pathlib.Path(checkout) / "t5x"
    # Asked for: its absence is no reason to skip.
    assert folder.is_dir(), f"INSTRUCTREC_T5X: there is no {folder}"
    return folder
  spec = importlib.util.find_spec("t5x")
  return spec and pathlib.Path(spec.submodule_search_locations[0])


@pytest.fixture
def network(monkeypatch):
  """T5X's network.py and layers.py; its package itself needs TensorFlow."""
  folder = _t5x_folder()
  if folder is None:
    pytest.skip("T5X is absent: install it or set INSTRUCTREC_T5X=CHECKOUT")
  for name in ("t5x", "t5x.examples", "t5x.examples.t5"):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  for name in ("layers", "network"):
    full = f"t5x.examples.t5.{name}"
    spec = importlib.util.spec_from_file_location(
      full, folder / "examples" / "t5" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, full, module)
    spec.loader.exec_module(module)
    setattr(sys.modules["t5x.examples.t5"], name, module)
  return module


def _batch():
  rng = np.random.default_rng(0)
  inputs = rng.integers(1, 64, (2, 40))
  inputs[1, 30:] = 0
  targets = rng.integers(1, 64, (2, 12))
  targets[0, 9:] = 0
  return inputs, np.pad(targets[:, :-1], ((0, 0), (1, 0))), targets


def _models(network, **fields):
  fields = SIZES | fields
  theirs = network.Transformer(
    network.T5Config(**{"dtype": "float32"} | fields)
  )
  return theirs, Transformer(T5Config(**fields))


@pytest.mark.parametrize("tied", [False, True])
def test_same_tree_axes_and_initial_values(network, tied):
  theirs, ours = (
    jax.jit(functools.partial(model.init, enable_dropout=False))(
      jax.random.key(0), *_batch()
    )
    for model in _models(network, logits_via_embedding=tied)
  )
  assert theirs["params_axes"] == ours["params_axes"]
  # The same names draw the same keys, so equal initializers give equal values.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6),
    theirs["params"],
    ours["params"],
  )


@pytest.mark.parametrize(
  ("fields", "packed"),
  [
    ({}, False),
    ({}, True),
    ({"mlp_activations": ("relu",), "logits_via_embedding": True}, True),
  ],
  ids=["T5 1.1", "T5 1.1 packed", "T5 1.0 packed"],
)
def test_same_logits(network, random_params, fields, packed):
  theirs, ours = _models(network, **fields)
  params = random_params(ours.config)
  inputs, shifted, targets = _batch()
  segments = {}
  if packed:
    segments = {
      "encoder_segment_ids": np.repeat([[1, 2]], [25, 15], 1) * (inputs > 0),
      "decoder_segment_ids": np.repeat([[1, 2]], [5, 7], 1) * (targets > 0),
    }
  expected, found = (
    jax.jit(functools.partial(model.apply, enable_dropout=False))(
      {"params": params}, inputs, shifted, targets, **segments
    )
    for model in (theirs, ours)
  )
  real = targets > 0
  np.testing.assert_allclose(found[real], expected[real], rtol=1e-5, atol=1e-5)


def test_same_cache_and_decoding_steps(network, random_params):
  theirs, ours = _models(network)
  params = random_params(ours.config)
  inputs, shifted, targets = _batch()
  encoded = np.random.default_rng(1).normal(size=(2, 40, 16))
  found = []
  for model in (theirs, ours):
    decode = jax.jit(
      functools.partial(
        model.apply,
        enable_dropout=False,
        decode=True,
        max_decode_length=targets.shape[1],
        method="decode",
        mutable=["cache"],
      )
    )
    _, state = decode({"params": params}, encoded, inputs, targets, targets)
    logits = []
    for token in shifted.T[:3, :, None]:
      step, state = decode(
        {"params": params, **state}, encoded, inputs, token, token
      )
      logits.append(step)
    found.append((state["cache"], jnp.concatenate(logits, axis=1)))
  (expected, expected_logits), (got, logits) = found
  np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
  # T5X keeps a cache in each layer, ours lie side by side.
  assert len(got["layers"]) == SIZES["num_decoder_layers"]
  for number, of_layer in enumerate(got["layers"].values()):
    cached = expected["decoder"][f"layers_{number}"]["self_attention"]
    assert got["cache_index"] == cached["cache_index"] == 3
    for name in ("key", "value"):
      np.testing.assert_allclose(
        of_layer[name], cached[f"cached_{name}"], rtol=1e-5, atol=1e-5
      )
