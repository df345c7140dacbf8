"""Multiplications and additions that a T5 takes, of matrix products alone."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from instructrec_jax.scoring import tokenization
from instructrec_jax.scoring.trie import tries_of


def flops(
  config: Any, *, tokens: int, nodes: int, encoder_pairs: int, trie_pairs: int
) -> float:
  """Returns multiplications and additions of matrix products.

  Args:
    config: of the model.
    tokens: of instructions.
    nodes: of tries.
    encoder_pairs: of a query and a key, in the encoder.
    trie_pairs: in the decoder, within tries and with instructions.
  """
  width = config.num_heads * config.head_dim
  mlp = 3 * config.emb_dim * config.mlp_dim
  attention = 4 * config.emb_dim * width
  encoder = config.num_encoder_layers * (attention + mlp)
  keys_and_values = config.num_decoder_layers * attention / 2
  decoder = config.num_decoder_layers * (1.5 * attention + mlp)
  logits = config.emb_dim * config.vocab_size
  pairs = width * (
    config.num_encoder_layers * encoder_pairs
    + config.num_decoder_layers * trie_pairs
  )
  return (
    2 * tokens * (encoder + keys_and_values)
    + 2 * nodes * (decoder + logits)
    + 4 * pairs
  )


def useful_flops(config: Any, request: tokenization.TokenizedRequest) -> float:
  """Returns what an exact scorer cannot do without."""
  length, ids = len(request.instruction), request.candidates
  tries = tries_of(ids, np.array([len(ids)]), 1 << 30, np.zeros(1, int))
  return flops(
    config,
    tokens=length,
    nodes=len(tries.tokens),
    encoder_pairs=length**2,
    trie_pairs=int((tries.depths + 1 + length).sum()),
  )


def training_flops(config: Any, examples: Iterable[tuple[int, int]]) -> float:
  """Returns those of a step: a backward pass takes twice what a forward does.

  Args:
    config: of the model.
    examples: tokens of an instruction and of its answer, or of a whole row.
  """
  return 3 * sum(
    flops(
      config,
      tokens=inputs,
      nodes=targets,
      encoder_pairs=inputs**2,
      trie_pairs=targets * (targets + inputs),
    )
    for inputs, targets in examples
  )
