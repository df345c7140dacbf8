"""T5 1.1's sizes, as in gin/model."""

from typing import Any

VOCABULARY = 32128
SIZES: dict[str, dict[str, Any]] = {
  "mini": {
    "emb_dim": 128,
    "num_heads": 4,
    "head_dim": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "mlp_dim": 256,
  },
  "small": {
    "emb_dim": 512,
    "num_heads": 6,
    "head_dim": 64,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "mlp_dim": 1024,
  },
  "base": {
    "emb_dim": 768,
    "num_heads": 12,
    "head_dim": 64,
    "num_encoder_layers": 12,
    "num_decoder_layers": 12,
    "mlp_dim": 2048,
  },
  "large": {
    "emb_dim": 1024,
    "num_heads": 16,
    "head_dim": 64,
    "num_encoder_layers": 24,
    "num_decoder_layers": 24,
    "mlp_dim": 2816,
  },
  "xl": {
    "emb_dim": 2048,
    "num_heads": 32,
    "head_dim": 64,
    "num_encoder_layers": 24,
    "num_decoder_layers": 24,
    "mlp_dim": 5120,
  },
}
# In minutes, and in the memory of a desk.
CPU_SIZES = ("mini", "small", "base")
