"""A model's weights as a dict of leaves that are read one by one.

Every checkpoint format opens as `Weights` and is written from `Weights`, so
that a conversion holds a single array at a time, whatever the model's size.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from flax.core import unfreeze

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.attention import NUM_BUCKETS
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes

Path = tuple[str, ...]
Shape = tuple[int, ...]

_EMBEDDING = "token_embedder/embedding"
_HEAD = "decoder/logits_dense/kernel"
_BUCKETS = "encoder/relpos_bias/rel_embedding"
_QUERY = "encoder/layers_0/attention/query/kernel"
_GATE = "encoder/layers_0/mlp/wi_0/kernel"
_UNGATED = "encoder/layers_0/mlp/wi/kernel"


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array on disk.

  Attributes:
    shape: its shape, known without reading it.
    read: returns it, in the type that it is stored in.
  """

  shape: Shape
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
  """A checkpoint of any format, opened and checked.

  Attributes:
    where: the folder it was opened from.
    config: the model's sizes.
    leaves: by path in our parameter tree; exactly those of `config`.
    step: the training step, 0 where the format has none.
    vocabulary: the SentencePiece model that lies beside it, if one does.
  """

  where: pathlib.Path
  config: T5Config
  leaves: Mapping[Path, Leaf]
  step: int = 0
  vocabulary: pathlib.Path | None = None


def flat_shapes(config: T5Config) -> dict[Path, Shape]:
  """Returns the shape of every parameter of a model, by path."""
  flat: Any = traverse_util.flatten_dict(unfreeze(parameter_shapes(config)))
  return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def with_inferred_config(
  where: pathlib.Path, leaves: Mapping[Path, Leaf], *, step: int
) -> Weights:
  """Returns weights of a format that says no sizes, such as T5X's.

  Args:
    where: named in errors.
    leaves: by path in our tree.
    step: the training step.

  Raises:
    InputError: they are not the parameters of a T5 1.1.
  """
  shapes = {"/".join(path): leaf.shape for path, leaf in leaves.items()}
  config = _config_of(where, shapes)
  expected = {"/".join(p): s for p, s in flat_shapes(config).items()}
  check_shapes(where, shapes, expected)
  return Weights(where, config, leaves, step)


def check_shapes(
  where: pathlib.Path, found: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> None:
  """Refuses weights that are not exactly those expected.

  Raises:
    InputError: naming what is missing, unknown or of another shape.
  """
  missing = sorted(expected.keys() - found.keys())
  extra = sorted(found.keys() - expected.keys())
  if missing or extra:
    differences = [
      f"{what} {_some(names)}"
      for what, names in (("missing", missing), ("unknown", extra))
      if names
    ]
    raise InputError(
      f"{where}: not the weights of the T5 1.1 that their sizes say: "
      f"{'; '.join(differences)}."
    )
  for name in sorted(expected):
    if found[name] != expected[name]:
      raise InputError(
        f"{where}: {name} has the shape {found[name]}, but the model's sizes "
        f"ask for {expected[name]}."
      )


def tied(where: pathlib.Path, sign: str) -> InputError:
  """Returns the error of a T5 1.0, whose network is another one.

  Args:
    where: the checkpoint.
    sign: what it was recognised by.
  """
  return InputError(
    f"{where}: {sign}, so this is a T5 1.0 (output layer tied to the "
    "embedding, feed-forward layers not gated): convert weights of Flan-T5 or "
    "T5 1.1."
  )


def _config_of(where: pathlib.Path, shapes: Mapping[str, Shape]) -> T5Config:
  """Reads the sizes off the shapes."""
  if _UNGATED in shapes:
    raise tied(where, f"there is {_UNGATED} and no gate")
  if _EMBEDDING in shapes and _HEAD not in shapes:
    raise tied(where, f"there is no {_HEAD}")
  for name, rank in ((_EMBEDDING, 2), (_BUCKETS, 2), (_QUERY, 2), (_GATE, 2)):
    if len(shapes.get(name, ())) != rank:
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
  # The last number and not how many: a layer that is missing is then named.
  numbers = [re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes]
  return 1 + max((int(match[1]) for match in numbers if match), default=0)


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
