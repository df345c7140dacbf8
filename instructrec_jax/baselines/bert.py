"""A BERT that turns texts into vectors, in jax and without torch.

It reads a folder as Hugging Face and sentence-transformers save one
(config.json, model.safetensors, tokenizer.json), such as all-MiniLM-L6-v2 or
BERT-mini: Devlin et al. (2019); Reimers and Gurevych (2019) for the mean of the
tokens as a text's vector.

N: texts, L: tokens of a text, D: width, H: heads.
"""

import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from instructrec_jax import storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.errors import InputError

# Texts that are encoded at once, and the lengths that they are padded to.
_ROWS = 64
_LENGTHS = (8, 16, 24, 32, 48, 64, 128, 256)
_CONFIG = {
  "model_type": str,
  "hidden_size": int,
  "num_hidden_layers": int,
  "num_attention_heads": int,
  "intermediate_size": int,
  "max_position_embeddings": int,
}
_LAYER = "encoder.layer.{}."
_INSIDE = (
  *("attention.self.query", "attention.self.key", "attention.self.value"),
  *("attention.output.dense", "attention.output.LayerNorm"),
  *("intermediate.dense", "output.dense", "output.LayerNorm"),
)

Params = dict[str, Any]


def is_bert(folder: pathlib.Path) -> bool:
  """Whether a folder holds a BERT."""
  path = folder / "config.json"
  if not path.is_file():
    return False
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    return False
  return isinstance(config, dict) and config.get("model_type") == "bert"


class BertEncoder:
  """Encodes texts; its weights stay as they are.

  Attributes:
    width: of the vectors, D.
    num_parameters: of the network.
    flops: of the matrix products of all that was encoded so far, with padding.
    sha256: of the weights.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads a folder.

    Raises:
      InputError: a file is missing, damaged or of another kind of BERT, or the
        package that reads the vocabulary is not installed.
    """
    config = storage.read_json(folder / "config.json", _CONFIG)
    for name in _CONFIG.keys() - {"model_type"}:
      if (
        config[name] < 1
        or config["hidden_size"] % config[name]
        and (name == "num_attention_heads")
      ):
        raise InputError(
          f"{folder / 'config.json'}: {name} is {config[name]}, which fits no "
          "network."
        )
    expected = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, value in expected.items():
      if config.get(name, value) != value:
        raise InputError(
          f"{folder / 'config.json'}: {name} is {config[name]!r:.80}, and a "
          f"BERT of {value!r} is read."
        )
    self.width: int = config["hidden_size"]
    self._config = config
    self._pools_first = _pools_first(folder / "1_Pooling" / "config.json")
    path = folder / "model.safetensors"
    self._params = _read(path, config)
    self.sha256 = storage.sha256_of(path)
    self.num_parameters = sum(
      leaf.size for leaf in jax.tree.leaves(self._params)
    )
    self.flops = 0.0
    self._tokenizer = _tokenizer(folder / "tokenizer.json")
    self._longest = min(config["max_position_embeddings"], _LENGTHS[-1])

  def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
    """Returns vectors of length one, the mean of a text's tokens.

    A text beyond 256 tokens is truncated.
    """
    vectors = np.empty((len(texts), self.width), np.float32)
    ids = [
      [*row.ids[: self._longest - 1], row.ids[-1]]
      if len(row.ids) > self._longest
      else row.ids
      for row in self._tokenizer.encode_batch(list(texts))
    ]
    # Of one length together, whatever came before: as good as alone.
    lengths = np.searchsorted(_LENGTHS, [len(row) for row in ids])
    for place in np.unique(lengths):
      members = np.flatnonzero(lengths == place)
      length = min(_LENGTHS[place], self._longest)
      for start in range(0, len(members), _ROWS):
        block = members[start : start + _ROWS]
        tokens = np.zeros((_ROWS, length), np.int32)
        mask = np.zeros((_ROWS, length), bool)
        # Of rows that are not used, too: a mean of no token is no number.
        mask[:, 0] = True
        for row, index in enumerate(block):
          tokens[row, : len(ids[index])] = ids[index]
          mask[row, : len(ids[index])] = True
        found = _encode(
          self._params,
          tokens,
          mask,
          heads=self._config["num_attention_heads"],
          epsilon=self._config.get("layer_norm_eps", 1e-12),
          first=self._pools_first,
        )
        vectors[block] = np.asarray(found)[: len(block)]
        self.flops += len(block) * self._flops(length)
    return vectors

  def _flops(self, length: int) -> float:
    width = self.width
    products = 4 * width * width + 2 * width * self._config["intermediate_size"]
    of_layer = 2.0 * length * (products + 2 * length * width)
    return self._config["num_hidden_layers"] * of_layer


def _pools_first(path: pathlib.Path) -> bool:
  """Whether the first token's vector is a text's, and not the mean."""
  if not path.is_file():
    return False
  config = storage.read_json(path, dict)
  modes = [name for name, value in config.items() if value is True]
  modes = [name for name in modes if name.startswith("pooling_mode_")]
  if config.get("pooling_mode") in ("cls", "mean"):
    modes = [f"pooling_mode_{config['pooling_mode']}_token"]
  known = {"pooling_mode_cls_token", "pooling_mode_mean_token"}
  if len(modes) != 1 or modes[0].removesuffix("s") not in known:
    raise InputError(
      f"{path}: it pools by {', '.join(modes) or 'nothing'}; the mean of the "
      "tokens or the first one's vector (cls) is read."
    )
  return modes == ["pooling_mode_cls_token"]


def _read(path: pathlib.Path, config: dict[str, Any]) -> Params:
  """Returns embeddings, and the layers' weights stacked."""
  leaves = safetensors_file.open_file(path)
  # Saved from a network with a head, names have a prefix.
  prefix = "bert." if any(name.startswith("bert.") for name in leaves) else ""

  def read(name: str) -> np.ndarray:
    if prefix + name not in leaves:
      raise InputError(f"{path}: no tensor {prefix + name}: it is no BERT.")
    return leaves[prefix + name].read().astype(np.float32)

  def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    return read(f"{name}.weight"), read(f"{name}.bias")

  params = {
    "words": read("embeddings.word_embeddings.weight"),
    "places": read("embeddings.position_embeddings.weight"),
    # Of the first of two sentences, and there is one.
    "sentence": read("embeddings.token_type_embeddings.weight")[0],
    "norm": pair("embeddings.LayerNorm"),
    "layers": [
      {name: pair(_LAYER.format(number) + name) for name in _INSIDE}
      for number in range(config["num_hidden_layers"])
    ],
  }
  width, hidden = config["hidden_size"], config["intermediate_size"]
  shapes = {
    "attention.self.query": (width, width),
    "intermediate.dense": (hidden, width),
  }
  for name, shape in shapes.items():
    if any(layer[name][0].shape != shape for layer in params["layers"]):
      raise InputError(
        f"{path}: its tensors are not of the sizes of config.json."
      )
  return params


def _tokenizer(path: pathlib.Path) -> Any:
  try:
    import tokenizers
  except ImportError:
    raise InputError(
      f"{path} needs a package that is not here: pip install tokenizers."
    ) from None
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # The package raises nothing narrower.
    raise InputError(f"{path}: no tokenizer ({error}).") from None
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return tokenizer


@functools.partial(jax.jit, static_argnames=("heads", "epsilon", "first"))
def _encode(
  params: Params,
  tokens_NxL: Int[Array, "N L"],
  mask_NxL: Bool[Array, "N L"],
  *,
  heads: int,
  epsilon: float,
  first: bool,
) -> Float[Array, "N D"]:
  norm = functools.partial(_norm, epsilon=epsilon)
  length = tokens_NxL.shape[1]
  x_NxLxD = params["words"][tokens_NxL] + params["places"][:length]
  x_NxLxD = norm(x_NxLxD + params["sentence"], params["norm"])
  hidden_Nx1x1xL = jnp.where(mask_NxL, 0.0, -jnp.inf)[:, None, None]
  for layer in params["layers"]:
    query, key, value = (
      _dense(x_NxLxD, layer[f"attention.self.{name}"]).reshape(
        *tokens_NxL.shape, heads, -1
      )
      for name in ("query", "key", "value")
    )
    logits_NxHxLxL = jnp.einsum("nqhd,nkhd->nhqk", query, key)
    logits_NxHxLxL /= math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(logits_NxHxLxL + hidden_Nx1x1xL)
    seen = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
    seen = _dense(seen.reshape(x_NxLxD.shape), layer["attention.output.dense"])
    x_NxLxD = norm(x_NxLxD + seen, layer["attention.output.LayerNorm"])
    inside = jax.nn.gelu(
      _dense(x_NxLxD, layer["intermediate.dense"]), approximate=False
    )
    inside = _dense(inside, layer["output.dense"])
    x_NxLxD = norm(x_NxLxD + inside, layer["output.LayerNorm"])
  x_NxD = x_NxLxD[:, 0]
  if not first:
    counted_NxLx1 = mask_NxL[..., None]
    x_NxD = (x_NxLxD * counted_NxLx1).sum(1) / counted_NxLx1.sum(1)
  return x_NxD / jnp.linalg.norm(x_NxD, axis=-1, keepdims=True)


def _dense(x: Array, weights: tuple[Array, Array]) -> Array:
  kernel, bias = weights
  return x @ kernel.T + bias


def _norm(x: Array, weights: tuple[Array, Array], *, epsilon: float) -> Array:
  scale, bias = weights
  centred = x - x.mean(-1, keepdims=True)
  variance = (centred * centred).mean(-1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + epsilon) * scale + bias
