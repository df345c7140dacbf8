import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import padded_rows
from instructrec_jax.seq2seq.transformer import Transformer

CONFIG = T5Config(
  vocab_size=128,
  emb_dim=48,
  num_heads=2,
  num_encoder_layers=2,
  num_decoder_layers=2,
  head_dim=8,
  mlp_dim=40,
)


def as_floats(tree):
  """The float weights that those in int8 stand for."""
  if not isinstance(tree, dict):
    return tree
  return {
    name: int8.matrix(tree, name, jnp.float32)
    if name in ("kernel", "embedding")
    else as_floats(child)
    for name, child in tree.items()
    if not name.endswith(("kernel_scale", "embedding_scale"))
  }


@pytest.mark.parametrize("changes", [{}, dict(logits_via_embedding=True)])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_model_computes_with_the_weights_that_int8_stands_for(
  random_params, changes, scan_layers
):
  config = CONFIG.replace(scan_layers=scan_layers, **changes)
  params = int8.from_floats(random_params(config))
  tokens = np.arange(1, 13).reshape(2, 6) % 128

  layout = padded_rows(tokens, tokens, None, None)

  def logits(params):
    model, variables = Transformer(config), {"params": params}
    encoded = model.apply(variables, tokens, layout, method="encode_states")
    return model.apply(
      variables,
      tokens,
      encoded,
      padded_rows(tokens, tokens, None, None, is_causal=True),
      layout,
      with_logits=True,
      method="decode_states",
    )[0]

  found, expected = logits(params), logits(as_floats(params))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_weight_is_off_by_half_a_step_of_its_group_at_most():
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(64, 24)).astype(np.float32)
  # An input that is a bias, and an output that nothing reaches.
  matrix[3] *= 500
  matrix[:, 5] = 0
  params = {"dense": {"kernel": matrix}, "norm": {"scale": matrix[0]}}
  found = int8.from_floats(params)
  assert found["norm"]["scale"] is params["norm"]["scale"]
  dense = found["dense"]
  assert dense["kernel"].dtype == np.int8
  assert dense["kernel_scale"].shape == (4, 24)
  off = np.abs(int8.matrix(dense, "kernel", jnp.float32) - matrix)
  largest = np.abs(matrix).reshape(4, 16, 24).max(1).repeat(16, 0)
  # bfloat16 rounds the scale by 1 / 256.
  assert (off <= largest * (0.5 / 127 + 1 / 256)).all()
  # The bias spoils the 15 weights beside it, and no others.
  assert off[16:].max() < 0.05 < off[:16].max()
