"""CTranslate2 as its users would score with it: a peer to time.

`pip install ctranslate2` brings it; nothing else needs it.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from hugging_face import HuggingFace

from instructrec_jax.records import RankingRequest


class CTranslate2:
  """A model in CTranslate2, whose encoder reads a request for each candidate.

  Its weights are those of Hugging Face's; tokens are called by their ids.
  """

  def __init__(
    self,
    peer: HuggingFace,
    vocabulary: Any,
    *,
    threads: int,
    compute_type: str,
  ):
    """Raises ImportError without ctranslate2."""
    import ctranslate2
    import torch
    from ctranslate2.converters import transformers
    from ctranslate2.specs import model_spec

    class Converter(transformers.Converter):
      def _load(self) -> Any:
        with torch.no_grad():
          loader = transformers.T5Loader()
          spec: Any = loader.get_model_spec(peer.model)
        # transformers says of a fresh model that it is tied.
        spec.decoder.scale_outputs = model_spec.OPTIONAL
        ids = list(map(str, range(peer.model.config.vocab_size)))
        loader.set_vocabulary(spec, ids)
        spec.config.bos_token = spec.config.decoder_start_token = "0"
        spec.config.eos_token, spec.config.unk_token = "1", "2"
        return spec

    self._vocabulary = vocabulary
    self._exit = contextlib.ExitStack()
    folder = self._exit.enter_context(tempfile.TemporaryDirectory())
    Converter().convert(folder, force=True)
    self._translator = ctranslate2.Translator(
      folder,
      compute_type=compute_type,
      inter_threads=1,
      intra_threads=threads,
    )

  def score(
    self, requests: Sequence[RankingRequest], *, batch: int
  ) -> list[np.ndarray]:
    """Returns the scores of each request's candidates."""
    found = self._translator.score_batch(
      [
        [*self._ids(request.instruction), "1"]
        for request in requests
        for _ in request.candidates
      ],
      [self._ids(c) for request in requests for c in request.candidates],
      max_batch_size=batch,
    )
    counts = np.cumsum([len(request.candidates) for request in requests])
    return np.split([sum(each.log_probs) for each in found], counts[:-1])

  def _ids(self, text: str) -> list[str]:
    return list(map(str, self._vocabulary.encode_one(text)))
