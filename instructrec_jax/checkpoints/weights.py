"""Hugging Face's T5 in and out, as pure functions on dicts of numpy arrays.

T5X's checkpoints need no map: their parameter tree is this package's own.
Torch keeps matrices as [outputs, inputs]; every kernel here is [inputs,
outputs], and the relative-position table is [heads, buckets].
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from flax.core import unfreeze

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes

Path = tuple[str, ...]

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
# Other names under which files repeat the embedding.
EMBEDDING_COPIES = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
# A table that no T5 code reads; early conversions carry it.
UNUSED = (
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
)

_STACK = {
  "relpos_bias": "block.0.layer.0.SelfAttention.relative_attention_bias",
  "encoder_norm": "final_layer_norm",
  "decoder_norm": "final_layer_norm",
}
_ENCODER_LAYER = {
  "pre_attention_layer_norm": "layer.0.layer_norm",
  "attention": "layer.0.SelfAttention",
  "pre_mlp_layer_norm": "layer.1.layer_norm",
  "mlp": "layer.1.DenseReluDense",
}
_DECODER_LAYER = {
  "pre_self_attention_layer_norm": "layer.0.layer_norm",
  "self_attention": "layer.0.SelfAttention",
  "pre_cross_attention_layer_norm": "layer.1.layer_norm",
  "encoder_decoder_attention": "layer.1.EncDecAttention",
  "pre_mlp_layer_norm": "layer.2.layer_norm",
  "mlp": "layer.2.DenseReluDense",
}
_PROJECTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


def hugging_face_name(path: Path) -> str:
  """Returns the state-dict name of a parameter.

  Args:
    path: in our tree, such as ("encoder", "layers_3", "mlp", "wo", "kernel").
  """
  stack, *inner = path
  if stack == "token_embedder":
    return EMBEDDING
  if inner[0] == "logits_dense":
    return HEAD
  if not inner[0].startswith("layers_"):
    return f"{stack}.{_STACK[inner[0]]}.weight"
  number = inner[0].removeprefix("layers_")
  layer = _ENCODER_LAYER if stack == "encoder" else _DECODER_LAYER
  name = f"{stack}.block.{number}.{layer[inner[1]]}"
  if len(inner) == 4:
    name += f".{_PROJECTION.get(inner[2], inner[2])}"
  return f"{name}.weight"


def from_hugging_face(
  tensors: Mapping[str, np.ndarray], config: T5Config
) -> dict[str, Any]:
  """Returns our parameter tree from a Hugging Face state dict.

  Args:
    tensors: by state-dict name, of any float type; an untied T5 1.1 or Flan-T5
      has `lm_head.weight`, a tied T5 1.0 needs `config.logits_via_embedding`.
    config: the model's sizes.

  Returns:
    Nested dicts of float32 arrays, views of `tensors` where that is possible.

  Raises:
    InputError: a tensor is missing, not part of such a model, of another
      shape, or a copy of the embedding that differs from it.
  """
  tensors = _with_one_embedding(tensors, config)
  shapes = {
    path: torch_shape(path, leaf.shape)
    for path, leaf in _flat(parameter_shapes(config)).items()
  }
  names = {path: hugging_face_name(path) for path in shapes}
  _check_names(tensors.keys(), names.values())
  for path, name in names.items():
    if tensors[name].shape != shapes[path]:
      raise InputError(
        f"{name} has shape {tensors[name].shape}, but the config asks for "
        f"{shapes[path]}: the weights are of another model size."
      )
  return traverse_util.unflatten_dict(
    {
      path: turned(path, np.asarray(tensors[name], np.float32))
      for path, name in names.items()
    }
  )


def to_hugging_face(params: Any, config: T5Config) -> dict[str, np.ndarray]:
  """Returns a Hugging Face state dict, the inverse of `from_hugging_face`.

  Save it beside a config.json with `"tie_word_embeddings": false`, unless
  `config.logits_via_embedding`: transformers scales a tied head only.

  Raises:
    InputError: the parameters are not those of a model of this config.
  """
  found = _flat(params)
  expected = _flat(parameter_shapes(config))
  _check_names(map("/".join, found), map("/".join, expected))
  for path, leaf in expected.items():
    if found[path].shape != leaf.shape:
      raise InputError(
        f"{'/'.join(path)} has shape {found[path].shape}, but the config asks "
        f"for {leaf.shape}."
      )
  # Contiguous, since safetensors writes the buffer and not the view.
  return {
    hugging_face_name(path): np.ascontiguousarray(
      turned(path, np.asarray(leaf, np.float32))
    )
    for path, leaf in found.items()
  }


def _with_one_embedding(
  tensors: Mapping[str, np.ndarray], config: T5Config
) -> dict[str, np.ndarray]:
  """Keeps one of the embedding's names, and drops the table nobody reads."""
  tensors = {name: t for name, t in tensors.items() if name != UNUSED}
  copies = EMBEDDING_COPIES
  if config.logits_via_embedding:
    copies += (HEAD,)
  for name in copies:
    if name not in tensors:
      continue
    copy = tensors.pop(name)
    if not np.array_equal(tensors.setdefault(EMBEDDING, copy), copy):
      raise InputError(
        f"{name} differs from {EMBEDDING}, but this model has one table for "
        "both."
      )
  return tensors


def _check_names(found: Iterable[str], expected: Iterable[str]) -> None:
  found, expected = set(found), set(expected)
  missing, extra = sorted(expected - found), sorted(found - expected)
  if missing or extra:
    raise InputError(
      "the weights are not those of a model of this config: missing "
      f"{_some(missing)}; not expected {_some(extra)}."
    )


def _some(names: list[str]) -> str:
  if not names:
    return "none"
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def _flat(tree: Any) -> dict[Path, Any]:
  return traverse_util.flatten_dict(unfreeze(tree))


def _is_turned(path: Path) -> bool:
  return path[-1] in ("kernel", "rel_embedding")


def turned(path: Path, array: np.ndarray) -> np.ndarray:
  """Returns an array of ours as torch has it, or the other way round.

  Args:
    path: in our tree.
    array: a view of it is returned.
  """
  return array.T if _is_turned(path) else array


def torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape that one of our parameters has in torch.

  Args:
    path: in our tree.
    shape: ours.
  """
  return shape[::-1] if _is_turned(path) else shape
