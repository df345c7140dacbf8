"""Recommendation as instruction following (InstructRec), in JAX.

The paper's pipeline, in the order in which the chapters build on each other:

  text          sentencepiece vocabulary, token features, packed rows
  data          reviews -> 5-core -> splits -> stored candidates
  teacher       preferences and intentions, by a chat model or by rules
  instructions  templates over preference x intention x task form -> text
  seq2seq       the T5 1.1 encoder-decoder, with T5X's parameter tree
  kernels       attention, as it is fast on one backend
  checkpoints   T5X's, orbax's, Hugging Face's, exports
  training      packed rows -> loss -> Adafactor -> checkpoints
  scoring       log P(candidate title | instruction), batched; exact search
  baselines     what the model has to beat
  evaluation    HR@K and NDCG@K with intervals, on the same candidates
  reproduction  the paper's tables
  serving       a user's own words, in Python and over HTTP
  seqio_bridge  TFDS, SeqIO tasks and mixtures
  cli           the `instructrec` command

Text and arrays meet in one dict of numpy arrays whose keys are T5X's feature
names (`text.features`). Importing this package imports nothing else.
"""

__version__ = "0.1.0"
