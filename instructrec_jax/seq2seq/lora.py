"""Low-rank adaptation (LoRA, arXiv:2106.09685): what is trained, what not.

Adapters are parameters of the network, `lora_a` and `lora_b` beside each
`kernel` of attention and feed-forward (`layers.Dense`). Training holds them in
a tree of their own; what a run is loaded as has them merged.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from instructrec_jax.seq2seq.config import T5Config

NAMES = ("lora_a", "lora_b")
_HEAD = ("decoder", "logits_dense", "kernel")
_EMBEDDING = ("token_embedder", "embedding")


def split(params: Any) -> tuple[Any, Any]:
  """Returns the adapters and the rest of a tree of parameters, as two trees."""
  flat = traverse_util.flatten_dict(params)
  adapters = {path: x for path, x in flat.items() if path[-1] in NAMES}
  rest = {path: x for path, x in flat.items() if path[-1] not in NAMES}
  return traverse_util.unflatten_dict(adapters), traverse_util.unflatten_dict(
    rest
  )


def join(adapters: Any, frozen: Any) -> Any:
  """Returns one tree of what `split` returned; of `adapters` if not frozen."""
  if frozen is None:
    return adapters
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(adapters)
  )


def freeze(config: T5Config, params: Any) -> Any:
  """Returns parameters as they are kept where nothing updates them.

  In the dtype of activations, to which every layer casts its weights anyway; so
  that nothing is rounded that was not, the output layer, which computes in
  float32, stays as it is; and so does T5's table of distances, a small one,
  which kernels look up in float32.
  """
  flat: dict[Any, Any] = traverse_util.flatten_dict(params)
  head = _EMBEDDING if config.logits_via_embedding else _HEAD
  return traverse_util.unflatten_dict(
    {
      path: leaf
      if path == head or path[-1] == "rel_embedding"
      else leaf.astype(jnp.dtype(config.dtype))
      for path, leaf in flat.items()
    }
  )


def merge(params: Any, adapters: Any, *, scale: float) -> Any:
  """Returns a model's parameters with kernel + scale * lora_a @ lora_b.

  Args:
    params: numpy arrays or arrays on devices; not changed.
    adapters: of `split`.
    scale: lora_alpha / lora_rank.

  Returns:
    A tree like `params`, in the same dtypes; computed in float32.
  """
  flat = dict(traverse_util.flatten_dict(params))
  pairs = traverse_util.flatten_dict(adapters)
  for path in [path[:-1] for path in pairs if path[-1] == "lora_a"]:
    a, b = pairs[(*path, "lora_a")], pairs[(*path, "lora_b")]
    flat[(*path, "kernel")] = merge_kernel(flat[(*path, "kernel")], a, b, scale)
  return traverse_util.unflatten_dict(flat)


def merge_kernel(kernel: Any, a: Any, b: Any, scale: float) -> Any:
  """Returns kernel + scale * a @ b, in the kernel's dtype."""
  return (kernel + scale * (a @ b)).astype(kernel.dtype)


def merged(config: T5Config, params: Any, frozen: Any) -> Any:
  """Returns the parameters of a training state as a model of no adapters."""
  if frozen is None:
    return params
  scale = config.lora_alpha / config.lora_rank
  return jax.jit(lambda frozen, params: merge(frozen, params, scale=scale))(
    frozen, params
  )
