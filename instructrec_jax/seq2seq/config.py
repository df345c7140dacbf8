"""Sizes and numerics of a T5 1.1 encoder-decoder."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax.errors import InputError, check_counts, check_numbers

REMAT_POLICIES = ("none", "minimal", "full")
ATTENTIONS = ("xla", "pallas", "cudnn")
ACTIVATIONS = ("linear", "gelu", "relu", "silu", "swish")
# float16 is left out: attention's mask value overflows in it.
DTYPES = ("float32", "bfloat16")


@struct.dataclass
class T5Config:
  """The fields of T5X's `network.T5Config`, under the same names.

  Attributes:
    vocab_size: rows of the embedding table, a multiple of 128.
    dtype: of activations; parameters are always float32.
    emb_dim: width of the residual stream.
    num_heads: attention heads.
    num_encoder_layers: layers of the encoder.
    num_decoder_layers: layers of the decoder.
    head_dim: width of a head; heads x width need not be `emb_dim`.
    mlp_dim: width of the feed-forward layers.
    mlp_activations: one name of `flax.linen` or "linear" for each factor of
      the feed-forward layer's gate.
    dropout_rate: of residual branches, attention and feed-forward.
    logits_via_embedding: T5 1.0's tied output layer; T5 1.1 has its own.
    float32_attention_logits: accumulate attention logits in float32.
    remat_policy: what the backward pass recomputes: "none", "minimal" (all
      but matrix products) or "full" (each whole layer).
    loop_over_examples: attend to one example after the other; None does so on
      a single CPU device. Of how a program runs, and so not in model.json.
    scan_layers: go through the layers in a loop, which compiles one of them in
      place of all; None does so from 16 layers on. Of how a program runs.
    attention: of rows of tokens: "xla", as the compiler makes it; "pallas", our
      kernel for GPUs (`kernels.flash`), of T5's bias by its table; or "cudnn",
      which has bfloat16 alone and is for training. Not in model.json either.
    lora_rank: of the adapters beside each attention and feed-forward matrix;
      0 has none. Adapters are merged where a model is loaded, and so it is not
      in model.json.
    lora_alpha: adapters are scaled by lora_alpha / lora_rank.
  """

  vocab_size: int = 32128
  dtype: Any = "float32"
  emb_dim: int = 512
  num_heads: int = 6
  num_encoder_layers: int = 8
  num_decoder_layers: int = 8
  head_dim: int = 64
  mlp_dim: int = 1024
  mlp_activations: tuple[str, ...] = ("gelu", "linear")
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  float32_attention_logits: bool = False
  remat_policy: str = "none"
  loop_over_examples: bool | None = None
  scan_layers: bool | None = None
  attention: str = "xla"
  lora_rank: int = 0
  lora_alpha: float = 16.0

  def loops_over_examples(
    self, mesh: Mesh | AbstractMesh | None = None
  ) -> bool:
    """Whether attention takes one example, or row, after the other.

    A CPU's caches hold what one example needs; an accelerator is faster with
    all at once, and rows that are split over devices stay where they are.

    Args:
      mesh: of the devices; the one that is being traced for if None.
    """
    if self.attention != "xla":
      return False
    if self.loop_over_examples is not None:
      return self.loop_over_examples
    mesh = mesh or jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and mesh.size <= 1

  def scans_layers(self) -> bool:
    """Whether programs go through equal layers in a loop."""
    if self.scan_layers is not None:
      return self.scan_layers
    return max(self.num_encoder_layers, self.num_decoder_layers) >= _MANY

  def validate(self) -> "T5Config":
    """Returns the config if it makes sense.

    Raises:
      InputError: a field has the wrong type or an impossible value.
    """
    for name in _POSITIVE:
      most = 1000 if "layers" in name else 1 << 30
      check_counts(most=most, **{f"T5Config.{name}": getattr(self, name)})
    rate = self.dropout_rate
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
      raise InputError(
        f"T5Config.dropout_rate is {rate!r}: a number from 0 to below 1 is "
        "needed."
      )
    activations = self.mlp_activations
    if (
      not isinstance(activations, tuple | list)
      or not activations
      or any(name not in ACTIVATIONS for name in activations)
    ):
      raise InputError(
        f"T5Config.mlp_activations is {activations!r}: a list of names is "
        f"needed, each one of {', '.join(ACTIVATIONS)}."
      )
    for name in _SWITCHES:
      value = getattr(self, name)
      if value is None and name == "scan_layers":
        continue
      if not isinstance(value, bool):
        raise InputError(
          f"T5Config.{name} is {value!r}: True or False is needed."
        )
    check_counts(least=0, most=4096, **{"T5Config.lora_rank": self.lora_rank})
    check_numbers(least=1e-6, **{"T5Config.lora_alpha": self.lora_alpha})
    if self.remat_policy not in REMAT_POLICIES:
      raise InputError(
        f"T5Config.remat_policy is {self.remat_policy!r}: one of "
        f"{', '.join(REMAT_POLICIES)} is needed."
      )
    if _dtype_name(self.dtype) not in DTYPES:
      raise InputError(
        f"T5Config.dtype is {self.dtype!r}: {' or '.join(DTYPES)} is needed."
      )
    if self.attention not in ATTENTIONS:
      raise InputError(
        f"T5Config.attention is {self.attention!r}: one of "
        f"{', '.join(ATTENTIONS)} is needed."
      )
    if self.attention == "cudnn" and _dtype_name(self.dtype) != "bfloat16":
      raise InputError(
        "T5Config.attention is 'cudnn', which computes in bfloat16, and dtype "
        f"is {_dtype_name(self.dtype)}: another dtype, or 'pallas' or 'xla', "
        "is needed."
      )
    if self.attention == "cudnn" and (self.head_dim % 8 or self.head_dim > 128):
      raise InputError(
        "T5Config.attention is 'cudnn', which takes a head_dim of at most 128 "
        f"that 8 divides, and head_dim is {self.head_dim}: another head_dim, "
        "or 'pallas' or 'xla', is needed."
      )
    return self

  def to_json(self) -> str:
    """Returns the config as JSON, dtype by name."""
    fields = {name: getattr(self, name) for name in _stored_names()}
    fields["dtype"] = jnp.dtype(self.dtype).name
    return json.dumps(fields, indent=2) + "\n"

  @classmethod
  def from_json(cls, text: str | bytes) -> "T5Config":
    """Reads what `to_json` wrote.

    Raises:
      InputError: it is not JSON, or a field is missing, unknown or wrong.
    """
    try:
      fields = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise InputError(f"not the JSON of a T5Config: {error}.") from None
    names = set(_stored_names())
    if not isinstance(fields, dict) or fields.keys() != names:
      # Missing fields are refused too: a default in their place would give
      # another model than the one that was saved.
      raise InputError(
        f"not the JSON of a T5Config: an object with exactly the fields "
        f"{', '.join(sorted(names))} is needed."
      )
    config = cls(**fields).validate()
    return dataclasses.replace(
      config, mlp_activations=tuple(config.mlp_activations)
    )


def _stored_names() -> list[str]:
  names = [field.name for field in dataclasses.fields(T5Config)]
  return [name for name in names if name not in _NOT_STORED]


def _dtype_name(dtype: Any) -> str | None:
  try:
    return jnp.dtype(dtype).name
  except TypeError:
    return None


_NOT_STORED = (
  "loop_over_examples",
  "scan_layers",
  "attention",
  "lora_rank",
  "lora_alpha",
)
_SWITCHES = ("logits_via_embedding", "float32_attention_logits", "scan_layers")
# Layers from which on compiling takes longer than a user waits.
_MANY = 16
_POSITIVE = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "head_dim",
  "mlp_dim",
)
