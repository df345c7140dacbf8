"""SentencePiece vocabularies, read and trained without TensorFlow."""

import functools
import io
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Bool

from instructrec_jax import storage
from instructrec_jax.errors import InputError, check_counts, check_file

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2

_WORD_START = "\u2581"
# Bounds of the cache, since a server reads new words for as long as it runs.
# Longer words are rare, and their best two segmentations are slow to find.
_CACHE_WORDS = 1 << 18
_LONGEST_WORD = 64
# Float32 sums up to this size are rounded by at most half of `_SPACING`.
_LARGEST_SUM = 2.0**13
# SentencePiece's options for pieces that may be several words.
_ACROSS_WORDS: dict[str, Any] = dict(
  split_by_whitespace=False,
  split_by_unicode_script=False,
  split_by_number=False,
  max_sentencepiece_length=64,
)
_SPACING = 2.0**-11
# SentencePiece's name for rules from a file.
_CUSTOM_RULES = "user_defined"
# What follows these is a word by itself: "tent" in '"tent"'.
_QUOTES = '"\u201c\u201e\u00ab\u2018'
# Code points that SentencePiece's rules change are below; more are ideographs.
_CODE_POINTS = 0x30000


class Vocabulary:
  """A SentencePiece model with T5's conventions: pad 0, end 1, unknown 2.

  Encoding equals `SentencePieceProcessor.encode` on the whole text. In T5's
  models no piece crosses a space, so a cache maps words to ids: 38,000
  instructions take 1.2 s of CPU time from an empty cache, and 1.8 s with
  `SentencePieceProcessor.encode`, on one thread or on two. Texts with a word
  whose ids may depend on its neighbours are encoded whole. SeqIO gives the same
  ids, except that it reads `<extra_id_0>` in a text as the sentinel.

  Attributes:
    path: the model file.
    num_pieces: pieces in it.
    extra_ids: sentinel ids that T5 appends after the pieces: 100, or 0 if the
      model already holds them.
    model_vocab_size: rows of the embedding table: all ids, rounded up to a
      multiple of 128 as T5X does (32,000 pieces -> 32,128).
  """

  def __init__(self, path: pathlib.Path):
    self.path = pathlib.Path(path)
    self._processor = _load_processor(self.path)
    self.num_pieces = self._processor.get_piece_size()
    sentinel = self._processor.piece_to_id("<extra_id_0>")
    self.extra_ids = 0 if sentinel != self._processor.unk_id() else 100
    self.model_vocab_size = -(-(self.num_pieces + self.extra_ids) // 128) * 128
    self._by_word = self._words_are_independent()
    self._words: dict[str, list[int] | None] = {}
    self._scores = self._unigram_scores()
    self._longest_text = _LARGEST_SUM / max(map(abs, self._scores), default=1)

  @classmethod
  def load(cls, path: pathlib.Path) -> "Vocabulary":
    """Loads a SentencePiece model.

    Raises:
      InputError: the file is missing, no SentencePiece model, or its pad,
        end and unknown ids are not 0, 1 and 2.
    """
    return cls(path)

  @functools.cached_property
  def sha256(self) -> str:
    return storage.sha256_of(self.path)

  @functools.cached_property
  def is_phrase_V(self) -> Bool[np.ndarray, " vocab"]:
    """Which ids are several words, such as a whole title."""
    ids = range(self.model_vocab_size)
    return np.array([len(self.decode([i]).split()) > 1 for i in ids])

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns each text's ids, without an end-of-sequence id."""
    return [self.encode_one(text) for text in texts]

  def encode_one(self, text: str) -> list[int]:
    """Returns one text's ids, without an end-of-sequence id."""
    if not self._by_word:
      return self._processor.encode(text)
    words = self._words
    ids: list[int] = []
    for word in text.split(" "):
      try:
        found = words[word]
      except KeyError:
        found = self._encode_word(word)
      if found is None:
        return self._processor.encode(text)
      ids += found
    if len(ids) > self._longest_text:
      return self._processor.encode(text)
    return ids

  def spell(self, text: str) -> list[int]:
    """Returns one text's ids where no piece is of several words."""
    return [i for word in text.split() for i in self.encode_one(word)]

  def pieces(self, ids: Iterable[int]) -> str:
    """Returns the pieces of ids one after the other, with marks for spaces."""
    return "".join(self._processor.id_to_piece(list(map(int, ids))))

  def count_tokens(self, text: str) -> int:
    """Returns how many ids `encode_one` returns, without an end of sequence."""
    return len(self.encode_one(text))

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids, without padding, end and sentinel ids."""
    kept = [int(i) for i in ids if EOS_ID < i < self.num_pieces]
    return self._processor.decode(kept)

  def _encode_word(self, word: str) -> list[int] | None:
    """Encodes and caches a word; None if its ids depend on its neighbours."""
    if len(self._words) >= _CACHE_WORDS:
      self._words.clear()
    safe = word.isascii() and word.isprintable()
    safe = safe or all(map(_is_word_internal, word))
    ids = self._processor.encode(word) if safe else None
    if ids and self._scores and not self._is_clear(word, ids):
      ids = None
    if len(word) <= _LONGEST_WORD:
      self._words[word] = ids
    return ids

  def _is_clear(self, word: str, ids: list[int]) -> bool:
    """Whether a unigram model splits a word alike in every context.

    The Viterbi search sums scores in float32 from the start of the text, so the
    preceding text decides the rounding, and with it the choice between two
    splits that are (nearly) equally likely: xx+x or x+xx.
    """
    if len(word) > _LONGEST_WORD or UNK_ID in ids:
      return False
    best, *others = (
      sum(self._scores[i] for i in split)
      for split in self._processor.nbest_encode_as_ids(word, nbest_size=2)
    )
    # At most one piece a character, and one for the space.
    additions = len(self._processor.normalize(word)) + 1
    return not others or best - others[0] > additions * _SPACING

  def _unigram_scores(self) -> list[float]:
    """Returns each piece's log probability; [] for a byte-pair model."""
    try:
      is_unigram = self._processor.nbest_encode_as_ids("a", nbest_size=2)
    except RuntimeError:
      return []
    # SentencePiece 0.2.1 returns an empty list instead of an error.
    if not is_unigram:
      return []
    return [self._processor.get_score(i) for i in range(self.num_pieces)]

  def _words_are_independent(self) -> bool:
    """Whether a text's ids are the concatenation of its words' ids.

    True if no piece crosses a space, spaces are collapsed, the space has a
    piece of its own (or unknown words would merge), and no custom normalisation
    rule can span words.
    """
    encode = self._processor.encode
    pieces = map(self._processor.id_to_piece, range(self.num_pieces))
    return (
      self._processor.piece_to_id(_WORD_START) != UNK_ID
      and not any({_WORD_START, " "} & set(piece[1:]) for piece in pieces)
      and encode(" a  b ") == encode("a") + encode("b")
      and _CUSTOM_RULES.encode() not in self._processor.serialized_model_proto()
    )


def train_vocabulary(
  texts: Iterable[str],
  out: pathlib.Path,
  *,
  size: int,
  across_words: bool = False,
  fold_case: bool = False,
  whole: Iterable[str] = (),
  seed: int = 0,
) -> Vocabulary:
  """Trains a small SentencePiece model with T5's ids and normalisation.

  Byte-pair encoding, where T5's own is unigram: unigram training seeds its
  pieces with substrings shared by several words, so a shop of a few hundred
  words would get no piece for a whole word.

  Args:
    texts: the corpus, line by line.
    size: pieces, at most; a small corpus gives fewer.
    across_words: whether a piece may span words, up to a whole text.
    fold_case: whether "Tent" and "tent" are the same pieces, and are also those
      of '"tent"', as instructions quote a wish.
    whole: texts of several words that are a piece each, wherever they stand,
      beyond the size; the longest where several fit.
    seed: for sampling lines of a corpus that is too large.

  Raises:
    InputError: the size is too small for the corpus's letters, or there are no
      words.
  """
  # Three are for padding, the end and what is unknown.
  check_counts(least=4, most=1_000_000, **{"the size of a vocabulary": size})
  model = io.BytesIO()
  sentencepiece.set_random_generator_seed(seed)
  with tempfile.NamedTemporaryFile("w", encoding="ascii") as rules:
    normalisation = {"normalization_rule_name": "nmt_nfkc"}
    if fold_case:
      rules.write(_folding_rules())
      rules.flush()
      normalisation = {"normalization_rule_tsv": rules.name}
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=-1,
        input_sentence_size=1_000_000,
        # Or rare characters, such as an apostrophe, would become unknown.
        character_coverage=1.0,
        # With more threads the result would depend on their timing.
        num_threads=1,
        minloglevel=2,
        **normalisation,
        **(_ACROSS_WORDS if across_words else {}),
      )
    except RuntimeError as error:
      # SentencePiece's words are of its own files and options.
      if few := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
        reason = f"their letters alone need {few[1]}: name a larger size"
      else:
        reason = "there are hardly any words in them: look at the titles"
      raise InputError(
        f"no vocabulary of {size} pieces can be trained on these texts; "
        f"{reason}."
      ) from None
  with storage.staged_file(out) as partial:
    partial.write_bytes(_with_whole(model.getvalue(), whole))
  return Vocabulary.load(out)


@functools.cache
def _folding_rules() -> str:
  """Returns SentencePiece's rules for NFKC and small letters, and our own.

  A quoted word would otherwise begin with another piece than it has anywhere
  else, and a wish of one word would be of none that titles have.
  """
  normalize = sentencepiece.SentencePieceNormalizer(
    rule_name="nmt_nfkc_cf"
  ).normalize
  lines = []
  for number in range(1, _CODE_POINTS):
    if 0xD800 <= number < 0xE000:
      continue
    character = chr(number)
    # Letters and their accents may be apart.
    for source in {character, unicodedata.normalize("NFD", character)}:
      # Within a word: spaces at its ends are dropped.
      within = normalize(f"a{source}a")[1:].replace(_WORD_START, " ")
      target = within[1:-1] + " " * (source in _QUOTES)
      # What joins the letter before it is of another rule.
      if within[:1] == within[-1:] == "a" and target != source:
        lines.append("\t".join(map(_code_points, (source, target))) + "\n")
  return "".join(sorted(lines))


def _code_points(text: str) -> str:
  return " ".join(f"{ord(character):X}" for character in text)


def _with_whole(model: bytes, texts: Iterable[str]) -> bytes:
  """Appends a piece for each text of several words.

  One of a single word would be found in longer words: "Go" in "Gold".
  """
  from sentencepiece import sentencepiece_model_pb2

  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  # Its classes are made when it is imported.
  module: Any = sentencepiece_model_pb2
  proto = module.ModelProto.FromString(model)
  if proto.normalizer_spec.name == _CUSTOM_RULES:
    # Ours span no words. The name of the rules' temporary file would make each
    # run's model another.
    proto.normalizer_spec.name = "nmt_nfkc_cf_quotes"
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
  known = {piece.piece for piece in proto.pieces}
  for text in texts:
    piece = processor.normalize(text)
    if piece not in known and _WORD_START in piece[1:]:
      known.add(piece)
      proto.pieces.add(
        piece=piece, score=0, type=proto.SentencePiece.USER_DEFINED
      )
  return proto.SerializeToString()


def _load_processor(path: pathlib.Path) -> sentencepiece.SentencePieceProcessor:
  if not path.is_file():
    raise InputError(
      f"{path}: no such vocabulary; name a SentencePiece model such as "
      "Flan-T5's spiece.model."
    )
  check_file(path, is_small=True)
  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.load_from_serialized_proto(path.read_bytes())
    # A damaged piece is found only here.
    processor.id_to_piece(list(range(processor.get_piece_size())))
  except (RuntimeError, ValueError):
    raise InputError(f"{path}: not a SentencePiece model.") from None
  ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if ids != (PAD_ID, EOS_ID, UNK_ID):
    raise InputError(
      f"{path}: pad, end and unknown have the ids {ids}, but T5's (0, 1, 2) "
      "are needed."
    )
  return processor


def _is_word_internal(character: str) -> bool:
  """Whether normalisation neither yields a space nor joins a neighbour."""
  return unicodedata.category(character)[0] not in "CMZ" and not any(
    map(str.isspace, unicodedata.normalize("NFKC", character))
  )
