import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import padded_rows
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel

CONFIG = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=2,
  head_dim=4,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=24,
)
MODEL = Transformer(CONFIG)


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@functools.partial(jax.jit, static_argnames=("method", "config"))
def apply(params, *args, method="__call__", config=CONFIG, **kwargs):
  if method in ("__call__", "encode", "decode"):
    kwargs["enable_dropout"] = False
  return Transformer(config).apply(
    {"params": params}, *args, method=method, **kwargs
  )


def tokens(seed, *shape):
  return np.random.default_rng(seed).integers(1, 64, shape, dtype=np.int32)


def shifted(targets):
  return np.pad(targets[:, :-1], ((0, 0), (1, 0)))


def padded(array, length):
  return np.pad(array, ((0, 0), (0, length - array.shape[1])))


def test_bfloat16_computes_over_float32_parameters_and_gives_float32_logits():
  config = CONFIG.replace(dtype="bfloat16")
  shapes = parameters.parameter_shapes(config)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    jnp.dtype("float32")
  }
  inputs, targets = tokens(0, 2, 7), tokens(1, 2, 5)
  run = functools.partial(apply, config=config)
  logits = jax.eval_shape(run, shapes, inputs, targets, targets)
  assert (logits.shape, logits.dtype) == ((2, 5, 64), jnp.float32)
  encoded = jax.eval_shape(
    functools.partial(run, method="encode"), shapes, inputs
  )
  assert (encoded.shape, encoded.dtype) == ((2, 7, 16), jnp.bfloat16)


def test_a_logit_depends_on_earlier_answer_tokens_only(params):
  inputs, targets = tokens(0, 2, 6), tokens(1, 2, 6)
  before = apply(params, inputs, shifted(targets), targets)
  changed = shifted(targets)
  changed[:, 3] = changed[:, 3] % 63 + 1
  after = apply(params, inputs, changed, targets)
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert np.abs(before[:, 3:] - after[:, 3:]).max(axis=-1).min() > 1e-3


def test_padding_changes_nothing(params):
  inputs, targets = tokens(0, 2, 6), tokens(1, 2, 6)
  bare = apply(params, inputs, shifted(targets), targets)
  wide = apply(
    params,
    padded(inputs, 9),
    padded(shifted(targets), 7),
    padded(targets, 7),
  )
  np.testing.assert_allclose(bare, wide[:, :6], rtol=1e-5, atol=1e-5)


def test_packed_examples_are_scored_as_if_alone(params):
  inputs = [tokens(0, 1, 5), tokens(1, 1, 3)]
  targets = [tokens(2, 1, 2), tokens(3, 1, 4)]
  alone = [
    apply(params, padded(i, 5), padded(shifted(t), 4), padded(t, 4))
    for i, t in zip(inputs, targets, strict=True)
  ]
  alone = [row[:, : t.shape[1]] for row, t in zip(alone, targets, strict=True)]
  packed = apply(
    params,
    padded(np.hstack(inputs), 10),
    np.hstack([shifted(t) for t in targets]),
    np.hstack(targets),
    encoder_segment_ids=np.array([[1] * 5 + [2] * 3 + [0] * 2]),
    decoder_segment_ids=np.array([[1] * 2 + [2] * 4]),
  )
  np.testing.assert_allclose(
    packed, np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-5
  )


def test_candidates_of_one_instruction_do_not_see_each_other(params):
  """The scorer's layout: segments in the decoder alone."""
  inputs = padded(tokens(0, 1, 6), 8)
  candidates = [tokens(1, 1, 3), tokens(2, 1, 5), tokens(3, 1, 2)]
  encoded = apply(params, inputs, method="encode")
  decode = functools.partial(apply, params, encoded, inputs, method="decode")
  alone = [
    decode(padded(shifted(c), 5), padded(c, 5))[0, : c.shape[1]]
    for c in candidates
  ]
  for order in [(0, 1, 2), (2, 0, 1)]:
    row = [candidates[i] for i in order]
    segments = np.repeat([1, 2, 3], [c.shape[1] for c in row])[None]
    packed = decode(
      padded(np.hstack([shifted(c) for c in row]), 12),
      padded(np.hstack(row), 12),
      decoder_segment_ids=padded(segments, 12),
    )[:, :10]
    for number, candidate in enumerate(order, start=1):
      np.testing.assert_allclose(
        packed[segments == number], alone[candidate], rtol=1e-5, atol=1e-5
      )


@pytest.mark.parametrize("tied", [False, True])
def test_hidden_states_times_the_output_kernel_are_the_logits(
  tied, random_params
):
  config = CONFIG.replace(logits_via_embedding=tied)
  params = random_params(config)
  assert ("logits_dense" in params["decoder"]) is not tied
  inputs, targets = tokens(0, 2, 6), tokens(1, 2, 4)
  run = functools.partial(
    apply, params, inputs, shifted(targets), targets, config=config
  )
  kernel = output_kernel(config, params)
  assert (kernel.shape, kernel.dtype) == ((16, 64), jnp.float32)
  encoded = apply(params, inputs, method="encode", config=config)
  states, cache = apply(
    params,
    shifted(targets),
    encoded,
    padded_rows(targets, targets, is_causal=True),
    padded_rows(targets, inputs),
    method="decode_states",
    config=config,
  )
  assert cache is None
  np.testing.assert_allclose(run(), states @ kernel, rtol=1e-5, atol=1e-5)


def test_decoding_step_by_step_gives_the_logits_of_the_whole(params):
  inputs, targets = padded(tokens(0, 2, 5), 6), tokens(1, 2, 4)
  whole = apply(params, inputs, shifted(targets), targets)
  encoded = apply(params, inputs, method="encode")
  cache = jax.eval_shape(
    functools.partial(
      MODEL.init, jax.random.key(0), enable_dropout=False, decode=True
    ),
    inputs,
    targets,
    targets,
  )["cache"]
  cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache)

  @jax.jit
  def step(cache, token):
    logits, changed = MODEL.apply(
      {"params": params, "cache": cache},
      encoded,
      inputs,
      token,
      token,
      enable_dropout=False,
      decode=True,
      max_decode_length=4,
      method="decode",
      mutable=["cache"],
    )
    return changed["cache"], logits[:, 0]

  for position, token in enumerate(shifted(targets).T):
    cache, logits = step(cache, token[:, None])
    np.testing.assert_allclose(logits, whole[:, position], rtol=1e-5, atol=1e-5)


def test_packed_rows_are_not_decoded_step_by_step(params):
  row = tokens(0, 1, 4)
  with pytest.raises(ValueError, match="packed"):
    MODEL.apply(
      {"params": params},
      row,
      row,
      row,
      row,
      row,
      decode=True,
      enable_dropout=False,
    )


def test_dropout_follows_its_key(params):
  inputs, targets = tokens(0, 1, 6), tokens(1, 1, 4)

  @jax.jit
  def run(seed):
    return MODEL.apply(
      {"params": params},
      inputs,
      shifted(targets),
      targets,
      # This generator compiles faster than the default one.
      rngs={"dropout": jax.random.key(seed, impl="rbg")},
    )

  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 1e-3


def test_rematerialisation_changes_memory_only(params):
  inputs, targets = tokens(0, 2, 6), tokens(1, 2, 4)
  axes, gradients, programs = {}, {}, {}
  for policy in ("none", "minimal", "full"):
    # Another config than other tests', whose traces would be taken again.
    # A loop over rows would compute attention again under any policy.
    config = CONFIG.replace(
      remat_policy=policy,
      float32_attention_logits=True,
      loop_over_examples=False,
    )
    variables = functools.partial(parameters.initial_variables, config)
    axes[policy] = jax.eval_shape(variables)["params_axes"]

    def loss(params, config=config):
      logits = apply(params, inputs, shifted(targets), targets, config=config)
      return jnp.square(logits).mean()

    traced = jax.jit(jax.grad(loss)).trace(params)
    programs[policy] = str(traced.jaxpr)
    gradients[policy] = traced.lower().compile()(params)
  for policy in ("minimal", "full"):
    assert axes[policy] == axes["none"]
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      gradients[policy],
      gradients["none"],
    )
  # The policies must differ in what is computed again, or this tests nothing.
  products = {p: text.count("dot_general") for p, text in programs.items()}
  assert products["none"] <= products["minimal"] < products["full"]
  assert {
    p: "remat" in t or "checkpoint" in t for p, t in programs.items()
  } == {
    "none": False,
    "minimal": True,
    "full": True,
  }
