import csv
import gzip
import re
import unicodedata

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from instructrec_jax.errors import InputError
from instructrec_jax.text import vocabulary as vocabulary_lib
from instructrec_jax.text.vocabulary import Vocabulary, train_vocabulary

# What normalisation removes, joins with a neighbour or turns into a space.
_AWKWARD = [
  *" \t\n\r\x00\x7f\x85\u00a0\u00ad\u0308\u0301\u00a8\u1100\u1161\u180e",
  *"\u200b\u200c\u200d\u2009\u202e\u2028\u2060\u2581\u3000\u3099\ufe0f\ufdfa",
  *"\ufeff\ufffd\ufb01\uff76\uff9e\u2122\u00bd\u037a\U0001f600\U0001f1e6",
  *"é Å 漢字 東京 한국 हिन्दी עברית </s> <pad> <unk>".split(),
  *["<extra_id_0>", "PS4", "Wired", "xxxx", "1111", "the", "game;", "\u2581a"],
]
_TEXTS = st.lists(
  st.one_of(
    st.sampled_from([" ", "  "]),
    st.sampled_from(_AWKWARD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text('aenox1-!."( ', max_size=12),
  ),
  max_size=20,
).map("".join)


@pytest.fixture(scope="module")
def t5(shared) -> Vocabulary:
  return Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")


@pytest.fixture(scope="module")
def titles(shared) -> list[str]:
  path = shared / "data" / "games_2018" / "items.csv.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [row["title"] for row in csv.DictReader(file)]


def plain(vocabulary: Vocabulary) -> sentencepiece.SentencePieceProcessor:
  return sentencepiece.SentencePieceProcessor(model_file=str(vocabulary.path))


@pytest.mark.parametrize("name", ["t5", "unigram", "byte_pair", "folded"])
def test_word_by_word_equals_the_whole_text(name, request):
  vocabulary = request.getfixturevalue(name)
  processor = plain(vocabulary)
  assert vocabulary._by_word

  @hypothesis.settings(max_examples=400, deadline=None)
  @hypothesis.given(_TEXTS)
  def check(text):
    assert vocabulary.encode([text]) == [processor.encode(text)]
    assert vocabulary.count_tokens(text) == len(processor.encode(text))

  check()


@pytest.mark.parametrize("name", ["t5", "unigram", "byte_pair", "folded"])
def test_no_character_is_changed_by_its_neighbours(name, request):
  vocabulary = request.getfixturevalue(name)
  processor = plain(vocabulary)
  characters = [
    chr(code)
    for code in range(0x11000)
    if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")
  ]
  # Each character at a word's end, alone, and at its start.
  texts = [f"ab{c} {c} {c}cd" for c in characters]
  assert vocabulary.encode(texts) == processor.encode(texts)


@pytest.mark.parametrize("word", ["PCH-2xxx", "xxxxxxxxx", "!!!!!!!!"])
def test_even_splits_are_decided_as_in_the_whole_text(word, t5):
  # xx+x and x+xx are as likely; rounding of what precedes them decides.
  texts = [f"{'The game of 2018; ' * n}{word}" for n in range(200)]
  whole = plain(t5).encode(texts)
  assert t5.encode(texts) == whole
  # The case is real: a look-up by word alone would have gone wrong.
  assert len({tuple(ids[-len(whole[0]) :]) for ids in whole}) > 1


def test_long_texts_are_not_rounded_word_by_word(t5):
  # SentencePiece up to 0.2.1 splits "AQUA" otherwise late in a long text.
  text = "Acer AQUA ATTILA Abandoned BAKTH " * 20_000
  assert t5.encode_one(text) == plain(t5).encode(text)


@pytest.mark.parametrize(
  "options",
  [
    {"add_dummy_prefix": False},
    {"remove_extra_whitespaces": False},
    {"treat_whitespace_as_suffix": True},
    {"split_by_whitespace": False},
    {"user_defined_symbols": ["rain or", "<sep>"]},
    {"normalization_rule_tsv": "rules"},
    {"byte_fallback": True, "vocab_size": 600},
    {"model_type": "char"},
  ],
  ids=lambda options: next(iter(options)),
)
def test_models_of_other_kinds_are_encoded_right(
  options, tmp_path, train_model, corpus
):
  if "normalization_rule_tsv" in options:
    rules = tmp_path / "rules.tsv"
    # "n e" becomes "s".
    rules.write_text("6e 20 65\t73\n", encoding="utf-8")
    options = {"normalization_rule_tsv": str(rules)}
  vocabulary = train_model(tmp_path / "other.model", **options)
  awkward = ["in en", " a  bb ", "rain or<sep>shine", "日本 日本", ""]
  texts = [*corpus[:50], *awkward]
  assert vocabulary.encode(texts) == plain(vocabulary).encode(texts)


def test_ids_equal_seqios_on_real_titles(t5, titles, byte_pair, folded):
  seqio = pytest.importorskip("seqio")
  texts = [*titles, "; ".join(titles[:60]), 'a user types "XLR Cable".']
  for vocabulary in (t5, byte_pair, folded):
    theirs = seqio.SentencePieceVocabulary(
      str(vocabulary.path), vocabulary.extra_ids
    )
    ours = vocabulary.encode(texts)
    assert ours == [theirs.encode(text) for text in texts]
    # SeqIO's two ways differ where splits are even: x+xx here, xx+x there.
    in_graph = theirs.encode_tf(texts).to_list()
    different = [(a, b) for a, b in zip(ours, in_graph, strict=True) if a != b]
    assert len(different) <= 2
    assert all(sorted(a) == sorted(b) for a, b in different)
    assert vocabulary.num_pieces + vocabulary.extra_ids == theirs.vocab_size


def test_whole_texts_are_one_piece_wherever_they_stand(titles, tmp_path):
  seqio = pytest.importorskip("seqio")
  corpus = [*titles[:2000], "; , . not"]
  vocabulary = train_vocabulary(
    corpus, tmp_path / "whole.model", size=2000, whole=titles
  )
  several = [title for title in titles if " " in title.strip()]
  ids = vocabulary.encode(several)
  assert all(len(each) == 1 for each in ids)
  listed = vocabulary.encode_one("; ".join(several[:50]))
  (mark,) = vocabulary.encode_one("a;")[1:]
  assert [i for i in listed if i != mark] == [i for (i,) in ids[:50]]
  # Words of their own are not; a title of one word is none, or "Go" were in
  # "Gold".
  spelled = vocabulary.spell(several[0])
  assert len(spelled) > 1 and max(spelled) < 2000
  assert vocabulary.decode(spelled) == vocabulary.decode(ids[0])
  single = [title for title in titles if " " not in title.strip()]
  assert all(max(each) < 2000 for each in vocabulary.encode(single))
  theirs = seqio.SentencePieceVocabulary(
    str(vocabulary.path), vocabulary.extra_ids
  )
  texts = [*titles[:500], "; ".join(titles[:50]), "not " + titles[7]]
  ours = vocabulary.encode(texts)
  assert ours == [theirs.encode(text) for text in texts]
  assert ours == theirs.encode_tf(texts).to_list()


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(text=_TEXTS)
def test_ids_equal_seqios_on_any_text(t5, text):
  seqio = pytest.importorskip("seqio")
  theirs = seqio.SentencePieceVocabulary(str(t5.path), t5.extra_ids)
  hypothesis.assume("<extra_id_" not in text)
  assert t5.encode_one(text) == theirs.encode(text)


def test_folding_is_sentencepieces_own_but_for_quotes(titles, tmp_path):
  folded = train_vocabulary(
    titles, tmp_path / "folded.model", size=400, fold_case=True
  )
  own = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc_cf")
  for title in titles:
    for text in (title, unicodedata.normalize("NFD", title)):
      apart = re.sub(r'(["\u201c\u201e\u00ab\u2018])', r"\1 ", text)
      assert folded._processor.normalize(text) == own.normalize(apart)
      # Word by word it is the same, and for SeqIO.
      assert folded.encode_one(text) == folded._processor.encode(text)
  assert folded._words_are_independent()


@pytest.mark.parametrize("text", ['"Capo"', "\u201cCAPO\u201d"])
def test_a_quoted_word_is_of_the_pieces_of_the_word(text, tmp_path):
  folded = train_vocabulary(
    ["Kyser Capo", "Capo (steel)", "capo", "capo"],
    tmp_path / "folded.model",
    size=40,
    fold_case=True,
  )
  (capo,) = folded.encode_one("capo")
  assert capo in folded.encode_one(text)


def test_sizes_are_those_of_t5(t5):
  assert t5.num_pieces == 32_000
  assert t5.extra_ids == 100
  assert t5.model_vocab_size == 32_128


def test_sentinels_in_the_model_are_not_added_again(tmp_path, train_model):
  symbols = [f"<extra_id_{i}>" for i in range(5)]
  vocabulary = train_model(tmp_path / "m.model", user_defined_symbols=symbols)
  assert vocabulary.extra_ids == 0
  assert vocabulary.model_vocab_size % 128 == 0


def test_decode_leaves_out_what_is_no_text(t5):
  title = "Super Mario Odyssey - Nintendo Switch"
  ids = t5.encode_one(title)
  assert t5.decode([*ids, 1, 0, 0, 32_099]) == title


def test_the_cache_is_bounded(unigram, corpus, monkeypatch):
  monkeypatch.setattr(vocabulary_lib, "_CACHE_WORDS", 10)
  vocabulary = Vocabulary.load(unigram.path)
  assert vocabulary.encode(corpus) == plain(unigram).encode(corpus)
  assert len(vocabulary._words) <= 10


def test_long_words_are_not_kept(unigram, byte_pair):
  for vocabulary in (unigram, byte_pair):
    words = ["z" * 3000, "short"]
    assert vocabulary.encode(words) == plain(vocabulary).encode(words)
    assert words[0] not in vocabulary._words and "short" in vocabulary._words


def test_callers_cannot_change_the_cache(byte_pair, corpus):
  before = byte_pair.encode_one(corpus[0])
  byte_pair.encode_one(corpus[0]).append(1)
  byte_pair.encode_one(corpus[0].split()[0]).append(1)
  assert byte_pair.encode_one(corpus[0]) == before


@pytest.mark.parametrize("fold_case", [False, True])
def test_training_is_repeatable_and_quiet(tmp_path, corpus, fold_case, capfd):
  first, second = (
    train_vocabulary(
      corpus, tmp_path / name, size=300, fold_case=fold_case, seed=1
    )
    for name in ("a.model", "b.model")
  )
  assert first.sha256 == second.sha256
  assert first.num_pieces == 300
  assert capfd.readouterr() == ("", "")


def test_a_small_corpus_gives_a_small_vocabulary(tmp_path):
  vocabulary = train_vocabulary(["a b c"], tmp_path / "m.model", size=4000)
  assert vocabulary.num_pieces < 20
  assert vocabulary.decode(vocabulary.encode_one("c a")) == "c a"


def test_an_empty_corpus_is_refused(tmp_path):
  with pytest.raises(InputError, match="hardly any words"):
    train_vocabulary([], tmp_path / "m.model", size=300)
  assert not any(tmp_path.iterdir())


def test_files_that_are_no_vocabulary_are_refused(tmp_path, train_model):
  with pytest.raises(InputError, match="no such vocabulary"):
    Vocabulary.load(tmp_path / "absent.model")
  (tmp_path / "text.model").write_text("not a model", encoding="utf-8")
  with pytest.raises(InputError, match="not a SentencePiece model"):
    Vocabulary.load(tmp_path / "text.model")
  with pytest.raises(InputError, match=r"have the ids \(3, 1, 2\)"):
    train_model(tmp_path / "m.model", pad_id=3, unk_id=2)
