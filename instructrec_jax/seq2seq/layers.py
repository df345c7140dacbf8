"""The layers of T5 1.1, with T5X's parameter names and logical axes.

T5 in three deviations from the first Transformer: RMS norms before each block
and no biases; a learned bias by bucketed distance, shared by all layers of a
stack, in place of positions (`attention.RelativePositionBias`); and no
1/sqrt(head_dim) in attention, which the query's initial scale absorbs.

Key to shapes. B: batch, T: length, D: emb_dim.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning, spmd
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import Layout

fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# U(-1 / sqrt(inputs), 1 / sqrt(inputs)).
_lora_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_fan_in_truncated = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


class Dense(nn.Module):
  """A linear map without bias, computed in `dtype` from float32 weights.

  Or from those of `int8`, which are a kernel of integers and `kernel_scale`.

  With a `lora_rank`, low-rank adapters are added: x @ lora_a @ lora_b, scaled
  by lora_alpha / lora_rank (LoRA, arXiv:2106.09685, section 4.1). They begin
  as PEFT's do, lora_b at 0.
  """

  features: int
  axes: tuple[str, str]
  dtype: Any
  kernel_init: Callable[..., jax.Array] = _fan_in_truncated
  lora_rank: int = 0
  lora_alpha: float = 16.0

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch inputs"]
  ) -> Float[Array, "*batch features"]:
    """Returns x @ kernel."""
    kernel = partitioning.param_with_axes(
      "kernel",
      self.kernel_init,
      (x.shape[-1], self.features),
      jnp.float32,
      axes=self.axes,
    )
    x = jnp.asarray(x, self.dtype)
    module = {"kernel": kernel}
    if self.has_variable("params", "kernel_scale"):
      module["kernel_scale"] = self.get_variable("params", "kernel_scale")
    kernel = int8.matrix(module, "kernel", self.dtype)
    y = x @ jnp.asarray(kernel, self.dtype)
    if not self.lora_rank:
      return y
    a = partitioning.param_with_axes(
      "lora_a",
      _lora_uniform,
      (x.shape[-1], self.lora_rank),
      jnp.float32,
      axes=(self.axes[0], "unmodeled"),
    )
    b = partitioning.param_with_axes(
      "lora_b",
      nn.initializers.zeros,
      (self.lora_rank, self.features),
      jnp.float32,
      axes=("unmodeled", self.axes[1]),
    )
    low = x @ jnp.asarray(a, self.dtype) @ jnp.asarray(b, self.dtype)
    return y + low * (self.lora_alpha / self.lora_rank)


class RMSNorm(nn.Module):
  """T5's layer norm: scales by the root mean square, subtracts nothing."""

  dtype: Any
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch embed"]
  ) -> Float[Array, "*batch embed"]:
    """Returns x normalised in float32, then scaled in `dtype`."""
    x = jnp.asarray(x, jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = partitioning.param_with_axes(
      "scale",
      nn.initializers.ones,
      (x.shape[-1],),
      jnp.float32,
      axes=("embed",),
    )
    x = x * jax.lax.rsqrt(mean_square + self.epsilon)
    return jnp.asarray(x, self.dtype) * jnp.asarray(scale, self.dtype)


class Embed(nn.Module):
  """The token embedding that encoder and decoder share."""

  config: T5Config

  def setup(self):
    self.embedding = partitioning.param_with_axes(
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (self.config.vocab_size, self.config.emb_dim),
      jnp.float32,
      axes=("vocab", "embed"),
    )

  def __call__(
    self, tokens_BxT: Int[Array, "batch length"]
  ) -> Float[Array, "batch length embed"]:
    """Returns the rows of the table for these tokens."""
    # A gather where T5X multiplies by a one-hot: the same values, and on CPU
    # and GPU without [tokens, vocab] arrays. It is cast after the gather, so
    # that a frequent token's gradient is summed in float32: a bfloat16 sum
    # stops growing after a few hundred terms.
    embedded_BxTxD = jnp.take(self.embedding, tokens_BxT, axis=0)
    scale_VxG = self.get_variable("params", "embedding_scale")
    if scale_VxG is not None:
      embedded_BxTxD = int8.to_floats(
        embedded_BxTxD,
        scale_VxG[tokens_BxT],
        self.config.dtype,
        axis=tokens_BxT.ndim,
      )
    return spmd.with_logical_constraint(
      embedded_BxTxD.astype(self.config.dtype), ("batch", "length", "embed")
    )


class Mlp(nn.Module):
  """The gated feed-forward layer: wo(act(wi_0 x) * wi_1 x) in T5 1.1."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch length embed"], layout: Layout
  ) -> Float[Array, "batch length embed"]:
    """Returns the transformed residual branch."""
    config = self.config
    gated = config.mlp_activations
    hidden: Any = None
    for number, activation in enumerate(gated):
      branch = Dense(
        config.mlp_dim,
        axes=("embed", "mlp"),
        dtype=config.dtype,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        name="wi" if len(gated) == 1 else f"wi_{number}",
      )(x)
      if activation != "linear":
        branch = getattr(nn, activation)(branch)
      hidden = branch if hidden is None else hidden * branch
    hidden = dropout(hidden, config, self.deterministic, layout)
    hidden = spmd.with_logical_constraint(hidden, ("batch", "length", "mlp"))
    return Dense(
      x.shape[-1],
      axes=("mlp", "embed"),
      dtype=config.dtype,
      lora_rank=config.lora_rank,
      lora_alpha=config.lora_alpha,
      name="wo",
    )(hidden)


def dropout(
  x: Float[Array, "batch length features"],
  config: T5Config,
  deterministic: bool,
  layout: Layout,
  *,
  shared: bool = True,
) -> Float[Array, "batch length features"]:
  """Drops features, the same ones at all positions of a row, as in T5X.

  Called within a module. What is dropped does not depend on the layout.

  Args:
    x: what to drop from.
    config: has the rate.
    deterministic: whether nothing is dropped.
    layout: of the tokens.
    shared: by all positions of a row; or each position has its own.
  """
  if deterministic or config.dropout_rate == 0:
    return x
  return layout.dropout(x, config.dropout_rate, shared=shared)
