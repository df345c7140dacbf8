"""How much arithmetic scoring a request takes."""

from collections.abc import Iterable

from instructrec_jax.scoring.tokenization import TokenizedRequest
from instructrec_jax.seq2seq.config import T5Config


def scoring_flops(
  requests: Iterable[TokenizedRequest], config: T5Config
) -> float:
  """Returns the FLOPs of the matrix products that requests need.

  Two for each pair of factors: of an instruction's L tokens in the encoder and
  a trie's N nodes in the decoder, without padding. What candidates begin with
  alike is computed once; within a row of the trie attention is between all
  nodes, of which a mask hides some.
  """
  width, heads = config.emb_dim, config.num_heads * config.head_dim
  mlp = (len(config.mlp_activations) + 1) * width * config.mlp_dim
  projection = width * heads
  total = 0
  for request in requests:
    length = len(request.instruction)
    rows = [len(row.tokens) for row in request.rows(request.row_length)]
    nodes = sum(rows)
    own = sum(n * n for n in rows)
    encoder = length * (4 * projection + mlp) + 2 * heads * length * length
    # A node's own four projections, and query and output of the second
    # attention, whose keys and values are of the instruction.
    decoder = nodes * (6 * projection + mlp) + length * 2 * projection
    decoder += 2 * heads * (own + nodes * length)
    total += config.num_encoder_layers * encoder
    total += config.num_decoder_layers * decoder
    total += nodes * width * config.vocab_size
  return 2.0 * total
