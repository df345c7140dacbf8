"""How much arithmetic scoring a request takes."""

import numpy as np

from instructrec_jax.scoring.tokenization import Chunk
from instructrec_jax.seq2seq.config import T5Config


def scoring_flops(chunk: Chunk, config: T5Config) -> float:
  """Returns the FLOPs of the matrix products that requests need.

  Two for each pair of factors: of an instruction's L tokens in the encoder and
  a trie's N nodes in the decoder, without padding. What candidates begin with
  alike is computed once; within a row of the trie attention is between all
  nodes, of which a mask hides some.
  """
  width, heads = config.emb_dim, config.num_heads * config.head_dim
  mlp = (len(config.mlp_activations) + 1) * width * config.mlp_dim
  projection = width * heads
  lengths, nodes = chunk.lengths, chunk.own_sizes[:, 3]
  own = 0
  for row_length in np.unique(chunk.row_lengths).tolist():
    tries = chunk.tries(row_length)
    is_own = np.repeat(chunk.row_lengths == row_length, tries.rows)
    own += int((tries.row_nodes[is_own] ** 2).sum())
  pairs = int((lengths**2).sum())
  total, read = int(nodes.sum()), int(lengths.sum())
  encoder = read * (4 * projection + mlp) + 2 * heads * pairs
  # A node's own four projections, and query and output of the second
  # attention, whose keys and values are of the instruction.
  decoder = total * (6 * projection + mlp) + read * 2 * projection
  decoder += 2 * heads * (own + int((nodes * lengths).sum()))
  return 2.0 * (
    config.num_encoder_layers * encoder
    + config.num_decoder_layers * decoder
    + total * width * config.vocab_size
  )
