"""Hugging Face's T5 as its users would score with it: a peer to time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrec_jax.records import RankingRequest

# Bytes of float32 logits that may stand at a time.
_LOGITS = 1.3e9


class HuggingFace:
  """A model of ours in transformers, used in one of its users' ways."""

  def __init__(
    self,
    config: Any,
    params: Any,
    vocabulary: Any,
    *,
    threads: int,
    device: str = "cpu",
    dtype: str = "float32",
  ):
    """Raises ImportError without torch and transformers."""
    import torch
    import transformers

    from instructrec_jax.checkpoints import hugging_face
    from instructrec_jax.checkpoints.weights import leaves_of

    self._torch, self._vocabulary = torch, vocabulary
    torch.set_num_threads(threads)
    make_config: Any = transformers.T5Config
    self.model: Any = transformers.T5ForConditionalGeneration(
      make_config(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=False,
      )
    ).eval()
    # transformers ties a freshly made model whatever it is asked.
    self.model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(self.model.shared.weight)
    )
    tensors = hugging_face.to_state_dict(leaves_of(params))
    self.model.load_state_dict(
      {name: torch.tensor(leaf.read()) for name, leaf in tensors.items()},
      strict=False,
    )
    self._device = device
    self.model.to(device=device, dtype=getattr(torch, dtype))

  def score(
    self,
    requests: Sequence[RankingRequest],
    *,
    encode_once: bool,
    batch: int = 1,
  ) -> list[np.ndarray]:
    """Returns the scores of each request's candidates."""
    scores = []
    with self._torch.inference_mode():
      for start in range(0, len(requests), batch):
        scores += self._score(requests[start : start + batch], encode_once)
    return scores

  def _score(
    self, requests: Sequence[RankingRequest], encode_once: bool
  ) -> list[np.ndarray]:
    torch = self._torch
    source = self._padded([request.instruction for request in requests])
    mask = (source > 0).long()
    of = [n for n, r in enumerate(requests) for _ in r.candidates]
    target = self._padded([c for r in requests for c in r.candidates])
    shifted = torch.nn.functional.pad(target[:, :-1], (1, 0))
    states: Any = None
    if encode_once:
      states = self.model.encoder(input_ids=source, attention_mask=mask)[0]
    rows = max(
      int(_LOGITS // (4 * self.model.config.vocab_size * target.shape[1])), 1
    )
    sums = []
    for start in range(0, len(target), rows):
      here = slice(start, start + rows)
      whose = torch.tensor(of[here], device=self._device)
      inputs = (
        {"encoder_outputs": (states[whose],)}
        if encode_once
        else {"input_ids": source[whose]}
      )
      logits = self.model(
        decoder_input_ids=shifted[here], attention_mask=mask[whose], **inputs
      ).logits
      log_p = torch.log_softmax(logits.float(), -1)
      log_p = log_p.gather(-1, target[here][..., None])[..., 0]
      sums.append((log_p * (target[here] > 0)).sum(-1))
    counts = np.cumsum([len(request.candidates) for request in requests])
    return np.split(torch.cat(sums).cpu().numpy(), counts[:-1])

  def _padded(self, texts: Sequence[str]) -> Any:
    encode = self._vocabulary.encode_one
    ids = [self._torch.tensor([*encode(text), 1]) for text in texts]
    padded = self._torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return padded.to(self._device)
