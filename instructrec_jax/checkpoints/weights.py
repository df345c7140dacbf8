"""A model's weights as named arrays that are read from disk one by one.

Every checkpoint format opens as `Weights` and is written from `Weights`, so
that a conversion holds a single array in memory, whatever the model's size.
Parameters are named by their path in our tree, which is T5X's, such as
"encoder/layers_0/mlp/wo/kernel".
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from flax.core import unfreeze

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora
from instructrec_jax.seq2seq.attention import NUM_BUCKETS
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes

Shape = tuple[int, ...]

_EMBEDDING = "token_embedder/embedding"
_HEAD = "decoder/logits_dense/kernel"
_BUCKETS = "encoder/relpos_bias/rel_embedding"
_QUERY = "encoder/layers_0/attention/query/kernel"
_GATE = "encoder/layers_0/mlp/wi_0/kernel"
_UNGATED = "encoder/layers_0/mlp/wi/kernel"


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array, usually on disk.

  Attributes:
    shape: its shape, known without reading it.
    read: returns it, in the dtype that it is stored in.
  """

  shape: Shape
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
  """A checkpoint of any format, opened and checked.

  Attributes:
    where: the folder it was opened from.
    config: the model's sizes.
    leaves: by parameter name; exactly those of `config`.
    step: the training step, 0 where the format has none.
    vocabulary: the SentencePiece model stored with it, if there is one.
  """

  where: pathlib.Path
  config: T5Config
  leaves: Mapping[str, Leaf]
  step: int = 0
  vocabulary: pathlib.Path | None = None


def leaves_of(params: Any) -> dict[str, Leaf]:
  """Returns the leaves of a tree of arrays in memory, by name."""
  return {
    name: Leaf(array.shape, lambda array=array: np.asarray(array))
    for name, array in flatten(params).items()
  }


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree of parameters by name."""
  return traverse_util.flatten_dict(unfreeze(tree), sep="/")


def merged(
  leaves: Mapping[str, Leaf], adapters: Mapping[str, Leaf], scale: float
) -> dict[str, Leaf]:
  """Returns leaves whose kernels are merged with LoRA's as they are read.

  Args:
    leaves: of the model, by parameter name.
    adapters: each `lora_a`, [inputs, rank], and `lora_b`, [rank, outputs], by
      the name of its kernel's path; kernels without both stay as they are.
    scale: lora_alpha / lora_rank.
  """

  def leaf(name: str, leaf: Leaf) -> Leaf:
    path = name.removesuffix("/kernel")
    a, b = adapters.get(f"{path}/lora_a"), adapters.get(f"{path}/lora_b")
    if a is None or b is None:
      return leaf
    return Leaf(
      leaf.shape,
      lambda: lora.merge_kernel(leaf.read(), a.read(), b.read(), scale),
    )

  return {name: leaf(name, each) for name, each in leaves.items()}


def flat_shapes(config: T5Config) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape of every parameter of a model, by name."""
  return flatten(parameter_shapes(config))


def with_inferred_config(
  where: pathlib.Path, leaves: Mapping[str, Leaf], *, step: int
) -> Weights:
  """Returns weights of a format that stores no sizes, such as T5X's.

  Args:
    where: named in errors.
    leaves: by parameter name.
    step: the training step.

  Raises:
    InputError: they are not the parameters of a T5 1.1.
  """
  config = _infer_config(
    where, {name: leaf.shape for name, leaf in leaves.items()}
  )
  check_shapes(where, leaves, flat_shapes(config))
  return Weights(where, config, leaves, step)


def check_shapes(
  where: pathlib.Path, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
  """Raises an error unless names and shapes are exactly those expected.

  Args:
    where: named in errors.
    found: by name, anything that has a shape.
    expected: likewise.

  Raises:
    InputError: naming what is missing, unknown or of another shape.
  """
  missing = sorted(expected.keys() - found.keys())
  extra = sorted(found.keys() - expected.keys())
  if missing or extra:
    differences = [
      f"{what} {_abbreviate(names)}"
      for what, names in (("missing", missing), ("unknown", extra))
      if names
    ]
    raise InputError(
      f"{where}: not the weights of a model of this config: "
      f"{'; '.join(differences)}."
    )
  for name in sorted(expected):
    shape, wanted = tuple(found[name].shape), tuple(expected[name].shape)
    if shape != wanted:
      raise InputError(
        f"{where}: weights of another model size: {name} has the shape "
        f"{shape}, but the config asks for {wanted}."
      )


def t5_1_0_error(where: pathlib.Path, evidence: str) -> InputError:
  """Returns the error for a T5 1.0, whose architecture is another one.

  Args:
    where: the checkpoint.
    evidence: what it was recognised by.
  """
  return InputError(
    f"{where}: {evidence}, so this is a T5 1.0 (output layer tied to the "
    "embedding, feed-forward layers not gated): convert weights of Flan-T5 or "
    "T5 1.1."
  )


def _infer_config(where: pathlib.Path, shapes: Mapping[str, Shape]) -> T5Config:
  """Infers the sizes from the shapes."""
  if _UNGATED in shapes:
    raise t5_1_0_error(where, f"there is {_UNGATED} and no gate")
  if _EMBEDDING in shapes and _HEAD not in shapes:
    raise t5_1_0_error(where, f"there is no {_HEAD}")
  for name in (_EMBEDDING, _BUCKETS, _QUERY, _GATE):
    if len(shapes.get(name, ())) != 2:
      raise InputError(
        f"{where}: not the weights of a T5 1.1: {name} is missing or no matrix."
      )
  vocab_size, emb_dim = shapes[_EMBEDDING]
  heads, buckets = shapes[_BUCKETS]
  joined = shapes[_QUERY][1]
  if buckets != NUM_BUCKETS or not heads or joined % heads:
    raise InputError(
      f"{where}: {_BUCKETS} has the shape {shapes[_BUCKETS]} beside a query of "
      f"width {joined}: heads x {NUM_BUCKETS} buckets are needed."
    )
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=heads,
    head_dim=joined // heads,
    mlp_dim=shapes[_GATE][1],
    num_encoder_layers=_num_layers(shapes, "encoder"),
    num_decoder_layers=_num_layers(shapes, "decoder"),
  ).validate()


def _num_layers(shapes: Mapping[str, Shape], stack: str) -> int:
  # The last number, not the count, so that a missing layer is then named.
  numbers = [re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes]
  return 1 + max((int(match[1]) for match in numbers if match), default=0)


def _abbreviate(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
