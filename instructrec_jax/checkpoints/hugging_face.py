"""Hugging Face's T5: the map of parameter names, and folders in and out.

A folder is config.json and one or several safetensors; what is written is what
transformers itself would save, tensor by tensor. Torch stores matrices as
[outputs, inputs]; our kernels are [inputs, outputs], and the relative-position
table is [heads, buckets]. T5X's checkpoints need no map: their tree is ours.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructrec_jax import storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.checkpoints.weights import (
  Leaf,
  Shape,
  Weights,
  check_shapes,
  flat_shapes,
  t5_1_0_error,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.attention import MAX_DISTANCE, NUM_BUCKETS
from instructrec_jax.seq2seq.config import T5Config

CONFIG_FILE = "config.json"
VOCABULARY_FILE = "spiece.model"
# Fields of T5Config that determine the shapes, and their names in config.json.
SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "num_heads": "num_heads",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
}

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 5_000_000_000
# What our layers have built in, with the values of a config.json without it.
_CONSTANTS = {
  "relative_attention_num_buckets": NUM_BUCKETS,
  "relative_attention_max_distance": MAX_DISTANCE,
  "layer_norm_epsilon": 1e-6,
}

_EMBEDDING = "shared.weight"
_HEAD = "lm_head.weight"
# Other names under which files repeat the embedding.
_EMBEDDING_COPIES = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
# A table that no T5 code reads; early conversions carry it.
_UNUSED = (
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


def hugging_face_name(name: str) -> str:
  """Returns the state-dict name of a parameter of ours."""
  stack, *inner = name.split("/")
  if stack == "token_embedder":
    return _EMBEDDING
  if inner[0] == "logits_dense":
    return _HEAD
  if not inner[0].startswith("layers_"):
    return f"{stack}.{_STACK[inner[0]]}.weight"
  number = inner[0].removeprefix("layers_")
  layer = _ENCODER_LAYER if stack == "encoder" else _DECODER_LAYER
  theirs = f"{stack}.block.{number}.{layer[inner[1]]}"
  if len(inner) == 4:
    theirs += f".{_PROJECTION.get(inner[2], inner[2])}"
  return f"{theirs}.weight"


def to_torch_layout(name: str, leaf: Leaf) -> Leaf:
  """Returns a leaf of ours as torch stores it, or the reverse.

  Args:
    name: of our parameter.
    leaf: kernels and relative-position tables are transposed, as views.
  """
  if name.split("/")[-1] not in ("kernel", "rel_embedding"):
    return leaf
  return Leaf(leaf.shape[::-1], lambda: leaf.read().T)


def to_state_dict(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
  """Returns a Hugging Face state dict, the inverse of `from_state_dict`.

  Save it beside a config.json with `"tie_word_embeddings": false`, unless the
  model is a T5 1.0: transformers scales a tied head only.
  """
  return {
    hugging_face_name(name): to_torch_layout(name, leaf)
    for name, leaf in leaves.items()
  }


def from_state_dict(
  where: pathlib.Path, tensors: Mapping[str, Leaf], config: T5Config
) -> dict[str, Leaf]:
  """Returns our parameters from a Hugging Face state dict.

  Args:
    where: named in errors.
    tensors: by state-dict name; an untied T5 1.1 or Flan-T5 has
      `lm_head.weight`, a tied T5 1.0 needs `config.logits_via_embedding`.
    config: the model's sizes.

  Raises:
    InputError: a tensor is missing, not part of such a model, of another
      shape, or a copy of the embedding that differs from it.
  """
  tensors = {name: leaf for name, leaf in tensors.items() if name != _UNUSED}
  copies = _EMBEDDING_COPIES + (_HEAD,) * config.logits_via_embedding
  for name in copies:
    copy = tensors.pop(name, None)
    if copy is None:
      continue
    table = tensors.setdefault(_EMBEDDING, copy)
    if table is not copy and not np.array_equal(table.read(), copy.read()):
      raise InputError(
        f"{where}: {name} differs from {_EMBEDDING}, but the model has one "
        "table for both."
      )
  parameters = flat_shapes(config)
  expected = {
    name: Leaf(parameter.shape, lambda: np.empty(0))
    for name, parameter in parameters.items()
  }
  check_shapes(where, tensors, to_state_dict(expected))
  return {
    name: to_torch_layout(name, tensors[hugging_face_name(name)])
    for name in parameters
  }


def open_hugging_face(folder: pathlib.Path) -> Weights:
  """Opens a folder of Flan-T5, T5 1.1 or one fine-tuned from them.

  Raises:
    InputError: a file is missing or damaged, the model is another one than
      T5 1.1, or the tensors are not those that config.json says.
  """
  fields = storage.read_json(folder / CONFIG_FILE, dict)
  tensors = _open_tensors(folder)
  config = _config(folder, fields, tensors)
  vocabulary = folder / VOCABULARY_FILE
  return Weights(
    where=folder,
    config=config,
    leaves=from_state_dict(folder, tensors, config),
    vocabulary=vocabulary if vocabulary.is_file() else None,
  )


def write_hugging_face(
  folder: pathlib.Path,
  source: Weights,
  *,
  dtype: str,
  shard_bytes: int = _SHARD_BYTES,
) -> None:
  """Writes config.json and the weights, in shards if they are large.

  Args:
    folder: exists.
    source: the weights.
    dtype: that they are stored in.
    shard_bytes: the largest file, unless a single tensor is larger.
  """
  config_text = json.dumps(_config_json(source.config, dtype), indent=2)
  (folder / CONFIG_FILE).write_text(config_text + "\n", encoding="utf-8")
  tensors = to_state_dict(source.leaves)
  shapes = {name: tensors[name].shape for name in sorted(tensors)}
  itemsize = jnp.dtype(dtype).itemsize
  shards = _shards(shapes, itemsize, shard_bytes)
  files = {}
  for number, shard in enumerate(shards, 1):
    file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    file = _FILE if len(shards) == 1 else file
    safetensors_file.write_file(
      folder / file, shard, dtype, lambda name: tensors[name].read()
    )
    files |= dict.fromkeys(shard, file)
  if len(shards) > 1:
    parameters = sum(map(math.prod, shapes.values()))
    metadata = {
      "total_parameters": parameters,
      "total_size": parameters * itemsize,
    }
    storage.write_json(
      folder / _INDEX, {"metadata": metadata, "weight_map": files}
    )


def _open_tensors(folder: pathlib.Path) -> dict[str, Leaf]:
  """Opens all the tensors of a folder."""
  if (folder / _FILE).is_file():
    return safetensors_file.open_file(folder / _FILE)
  if not (folder / _INDEX).is_file():
    raise InputError(
      f"{folder}: neither {_FILE} nor {_INDEX}: convert older weights with "
      "transformers' save_pretrained first."
    )
  index = storage.read_json(folder / _INDEX, {"weight_map": {str: str}})
  places = index["weight_map"]
  if not places:
    raise InputError(f"{folder / _INDEX}: its weight_map is empty.")
  shards = {
    file: safetensors_file.open_file(folder / file)
    for file in sorted(set(places.values()))
  }
  for name, file in places.items():
    if name not in shards[file]:
      raise InputError(
        f"{folder / file}: {name} is missing, which {_INDEX} says is there."
      )
  return {name: shards[file][name] for name, file in places.items()}


def _config(
  folder: pathlib.Path, fields: Any, tensors: Mapping[str, Leaf]
) -> T5Config:
  """Reads config.json; raises an error for another architecture."""
  where = folder / CONFIG_FILE
  if fields.get("model_type") != "t5":
    raise InputError(
      f'{where}: "model_type" is not "t5": convert Flan-T5 or T5 1.1.'
    )
  activation = fields.get("feed_forward_proj", "relu")
  if activation == "relu":
    raise t5_1_0_error(where, '"feed_forward_proj" is "relu"')
  # "tie_word_embeddings" is no evidence: transformers 5 always writes true.
  if _HEAD not in tensors:
    raise t5_1_0_error(folder, f"there is no {_HEAD}")
  if activation != "gated-gelu":
    raise InputError(
      f'{where}: "feed_forward_proj" is {activation!r}: "gated-gelu" is needed.'
    )
  for name, value in _CONSTANTS.items():
    if fields.get(name, value) != value:
      raise InputError(
        f'{where}: "{name}" is {fields[name]!r}, but this network has {value}.'
      )
  fields = {"num_decoder_layers": fields.get("num_layers")} | fields
  missing = [name for name in SIZES.values() if fields.get(name) is None]
  if missing:
    raise InputError(f"{where}: there is no {', '.join(missing)} in it.")
  sizes = {ours: fields[theirs] for ours, theirs in SIZES.items()}
  try:
    return T5Config(
      **sizes, dropout_rate=fields.get("dropout_rate", 0.1)
    ).validate()
  except InputError as error:
    raise InputError(f"{where}: {error}") from None


def _config_json(config: T5Config, dtype: str) -> dict[str, Any]:
  """Returns what transformers saves for such a model."""
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "classifier_dropout": 0.0,
    **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
    **_CONSTANTS,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": config.dropout_rate,
    "dtype": dtype,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "model_type": "t5",
    "pad_token_id": 0,
    # Untied; transformers 4 and 5 each read one of these two.
    "tie_word_embeddings": False,
    "scale_decoder_outputs": False,
    "use_cache": True,
  }


def _shards(
  shapes: Mapping[str, Shape], itemsize: int, shard_bytes: int
) -> list[dict[str, Shape]]:
  """Splits the tensors, in order, into files of at most `shard_bytes`."""
  shards: list[dict[str, Shape]] = [{}]
  used = 0
  for name, shape in shapes.items():
    size = math.prod(shape) * itemsize
    if shards[-1] and used + size > shard_bytes:
      shards.append({})
      used = 0
    shards[-1][name] = shape
    used += size
  return shards
