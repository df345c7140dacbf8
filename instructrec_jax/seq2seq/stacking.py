"""Layers of a stack as one: each parameter with a leading axis of layers.

A program that goes through equal layers in a loop compiles one of them, where
it would else compile all. On disk, and wherever else parameters are handed on,
layers are apart, under T5X's names.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

STACKED = "layers"
"""The name of stacked layers; apart they are layers_0, layers_1, ..."""


def stack_layers(
  tree: Any, combine: Callable[[Sequence[Any]], Any] = jnp.stack
) -> Any:
  """Returns parameters with the layers of encoder and decoder stacked.

  Args:
    tree: of parameters; or any tree that has such trees in it, as a training
      state has in an optimizer's.
    combine: from a leaf of each layer to the stacked one.
  """
  return _of_each_stack(lambda children: _stack(children, combine), tree)


def unstack_layers(tree: Any) -> Any:
  """Returns what `stack_layers` was given, of arrays."""
  return _of_each_stack(_unstack, tree)


def is_stacked(params: Any) -> bool:
  """Whether parameters are of `stack_layers`."""
  return any(STACKED in children for children in params.values())


def stack_shapes(leaves: Sequence[Any]) -> jax.ShapeDtypeStruct:
  """Combines shapes, for `stack_layers`."""
  return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)


def stack_shardings(leaves: Sequence[NamedSharding]) -> NamedSharding:
  """Combines shardings, for `stack_layers`: layers are not split."""
  return NamedSharding(leaves[0].mesh, PartitionSpec(None, *leaves[0].spec))


def _of_each_stack(function: Callable[[dict], dict], tree: Any) -> Any:
  def is_parameters(node: Any) -> bool:
    return isinstance(node, dict) and not node.keys().isdisjoint(
      ("encoder", "decoder")
    )

  def of_parameters(node: Any) -> Any:
    if not is_parameters(node):
      return node
    return {name: function(children) for name, children in node.items()}

  return jax.tree.map(of_parameters, tree, is_leaf=is_parameters)


def _stack(children: Any, combine: Callable[[Sequence[Any]], Any]) -> Any:
  prefix = f"{STACKED}_"
  numbers = [
    int(name.removeprefix(prefix))
    for name in children
    if name.startswith(prefix)
  ]
  if not numbers:
    return children
  apart = [children[f"{prefix}{number}"] for number in sorted(numbers)]
  rest = {
    name: child
    for name, child in children.items()
    if not name.startswith(prefix)
  }
  of_layers = jax.tree.map(lambda *leaves: combine(leaves), *apart)
  return {**rest, STACKED: of_layers}


def _unstack(children: Any) -> Any:
  if STACKED not in children:
    return children
  rest = {name: x for name, x in children.items() if name != STACKED}
  count = len(jax.tree.leaves(children[STACKED])[0])
  return rest | {
    f"{STACKED}_{number}": jax.tree.map(
      lambda leaf, number=number: leaf[number], children[STACKED]
    )
    for number in range(count)
  }
