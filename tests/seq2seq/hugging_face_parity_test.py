"""Our logits beside those of transformers' T5, with random weights."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from instructrec_jax.checkpoints import hugging_face
from instructrec_jax.checkpoints.weights import leaves_of
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer

_ABSENT = "torch and transformers are absent: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=_ABSENT)
transformers = pytest.importorskip("transformers", reason=_ABSENT)


def _hugging_face(config: T5Config):
  """A model of random weights, untied if it is T5 1.1."""
  tied = config.logits_via_embedding
  gated = len(config.mlp_activations) == 2
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj="gated-gelu" if gated else "relu",
      tie_word_embeddings=tied,
    )
  ).eval()
  # transformers ties a freshly made model whatever it is asked.
  if not tied:
    model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(model.shared.weight)
    )
  assert model.config.scale_decoder_outputs is tied
  generator = torch.Generator().manual_seed(0)
  for name, tensor in model.state_dict().items():
    if "layer_norm" in name:
      tensor.uniform_(0.5, 1.5, generator=generator)
    else:
      tensor.normal_(0, tensor.shape[-1] ** -0.5, generator=generator)
  return model


@pytest.mark.parametrize(
  "fields",
  [{}, {"mlp_activations": ("relu",), "logits_via_embedding": True}],
  ids=["1.1", "1.0"],
)
def test_same_logits_with_padding(fields):
  config = T5Config(
    vocab_size=128,
    emb_dim=32,
    num_heads=4,
    head_dim=6,
    num_encoder_layers=2,
    num_decoder_layers=3,
    mlp_dim=40,
    **fields,
  )
  model = _hugging_face(config)
  rng = np.random.default_rng(0)
  # Longer than 128, so that the last distance bucket is reached.
  inputs = rng.integers(1, 128, (2, 150))
  inputs[1, 20:] = 0
  targets = rng.integers(1, 128, (2, 140))
  targets[0, 9:] = 0
  shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  with torch.no_grad():
    expected = model(
      input_ids=torch.tensor(inputs),
      attention_mask=torch.tensor(inputs > 0),
      decoder_input_ids=torch.tensor(shifted),
    ).logits.numpy()
  tensors = {name: t.numpy() for name, t in model.state_dict().items()}
  leaves = hugging_face.from_state_dict(
    pathlib.Path("memory"), leaves_of(tensors), config
  )
  params = traverse_util.unflatten_dict(
    {name: leaf.read() for name, leaf in leaves.items()}, sep="/"
  )
  found = jax.jit(
    functools.partial(Transformer(config).apply, enable_dropout=False)
  )({"params": params}, inputs, shifted, targets)
  real = targets > 0
  assert expected[real].std() > 0.1
  np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
  back = hugging_face.to_state_dict(leaves_of(params))
  back = {name: leaf.read() for name, leaf in back.items()}
  assert all(np.array_equal(back[name], tensors[name]) for name in back)
  assert not model.load_state_dict(
    {name: torch.tensor(array) for name, array in back.items()}, strict=False
  ).unexpected_keys
