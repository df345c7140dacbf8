"""Hugging Face's T5 folders: config.json and one or several safetensors.

What is written is what transformers itself would save, tensor by tensor;
`weights` has the names and which matrices are turned.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructrec_jax import storage
from instructrec_jax.checkpoints import safetensors_file, weights
from instructrec_jax.checkpoints.lazy_weights import (
  Leaf,
  Path,
  Shape,
  Weights,
  check_shapes,
  flat_shapes,
  tied,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.attention import MAX_DISTANCE, NUM_BUCKETS
from instructrec_jax.seq2seq.config import T5Config

CONFIG_FILE = "config.json"
VOCABULARY_FILE = "spiece.model"

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 5_000_000_000
_SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "num_heads": "num_heads",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
}
# What our layers have built in, with the values of a config.json without it.
_CONSTANTS = {
  "relative_attention_num_buckets": NUM_BUCKETS,
  "relative_attention_max_distance": MAX_DISTANCE,
  "layer_norm_epsilon": 1e-6,
}


def open_hugging_face(folder: pathlib.Path) -> Weights:
  """Opens a folder of Flan-T5, T5 1.1 or one fine-tuned from them.

  Raises:
    InputError: a file is missing or damaged, the model is another one than
      T5 1.1, or the tensors are not those that config.json says.
  """
  fields = storage.read_json(folder / CONFIG_FILE)
  tensors = _with_one_embedding(folder, _tensors(folder))
  config = _config(folder, fields, tensors)
  shapes = flat_shapes(config)
  names = {path: weights.hugging_face_name(path) for path in shapes}
  check_shapes(
    folder,
    {name: leaf.shape for name, leaf in tensors.items()},
    {
      name: weights.torch_shape(path, shapes[path])
      for path, name in names.items()
    },
  )
  vocabulary = folder / VOCABULARY_FILE
  return Weights(
    where=folder,
    config=config,
    leaves={path: _ours(path, tensors[name]) for path, name in names.items()},
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
  paths = {weights.hugging_face_name(path): path for path in source.leaves}
  shapes = {
    name: weights.torch_shape(paths[name], source.leaves[paths[name]].shape)
    for name in sorted(paths)
  }

  def read(name: str) -> np.ndarray:
    return weights.turned(paths[name], source.leaves[paths[name]].read())

  itemsize = jnp.dtype(dtype).itemsize
  shards = _shards(shapes, itemsize, shard_bytes)
  files = {}
  for number, shard in enumerate(shards, 1):
    file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    file = _FILE if len(shards) == 1 else file
    safetensors_file.write_file(folder / file, shard, dtype, read)
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


def _tensors(folder: pathlib.Path) -> dict[str, Leaf]:
  """Opens all the tensors of a folder."""
  if (folder / _FILE).is_file():
    return safetensors_file.open_file(folder / _FILE)
  if not (folder / _INDEX).is_file():
    raise InputError(
      f"{folder}: neither {_FILE} nor {_INDEX}: convert older weights with "
      "transformers' save_pretrained first."
    )
  index = storage.read_json(folder / _INDEX)
  places = index.get("weight_map") if isinstance(index, dict) else None
  if not isinstance(places, dict) or not places:
    raise InputError(f"{folder / _INDEX}: there is no weight_map in it.")
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


def _with_one_embedding(
  folder: pathlib.Path, tensors: Mapping[str, Leaf]
) -> dict[str, Leaf]:
  """Keeps one of the embedding's names, and drops the table nobody reads."""
  tensors = {n: leaf for n, leaf in tensors.items() if n != weights.UNUSED}
  for name in weights.EMBEDDING_COPIES:
    copy = tensors.pop(name, None)
    if copy is None:
      continue
    table = tensors.setdefault(weights.EMBEDDING, copy)
    if table is not copy and not np.array_equal(table.read(), copy.read()):
      raise InputError(
        f"{folder}: {name} differs from {weights.EMBEDDING}, but the model has "
        "one table for both."
      )
  return tensors


def _config(
  folder: pathlib.Path, fields: Any, tensors: Mapping[str, Leaf]
) -> T5Config:
  """Reads config.json, and refuses what our network does not compute."""
  where = folder / CONFIG_FILE
  if not isinstance(fields, dict) or fields.get("model_type") != "t5":
    raise InputError(
      f'{where}: "model_type" is not "t5": convert Flan-T5 or T5 1.1.'
    )
  activation = fields.get("feed_forward_proj", "relu")
  if activation == "relu":
    raise tied(where, '"feed_forward_proj" is "relu"')
  # Not by "tie_word_embeddings": transformers 5 writes true for either kind.
  if weights.HEAD not in tensors:
    raise tied(folder, f"there is no {weights.HEAD}")
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
  missing = [name for name in _SIZES.values() if fields.get(name) is None]
  if missing:
    raise InputError(f"{where}: there is no {', '.join(missing)} in it.")
  sizes = {ours: fields[theirs] for ours, theirs in _SIZES.items()}
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
    **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
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
    # Untied, and said twice: version 5 goes by the second.
    "tie_word_embeddings": False,
    "scale_decoder_outputs": False,
    "use_cache": True,
  }


def _shards(
  shapes: Mapping[str, Shape], itemsize: int, shard_bytes: int
) -> list[dict[str, Shape]]:
  """Cuts the tensors, in their order, into files of at most so many bytes."""
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


def _ours(path: Path, leaf: Leaf) -> Leaf:
  return Leaf(
    weights.torch_shape(path, leaf.shape),
    lambda: weights.turned(path, leaf.read()),
  )
