"""Verdicts on the teacher's texts: what may not become an instruction."""

import collections
import enum
import re
from collections.abc import Iterable, Sequence

from instructrec_jax.data.cleaning import clean_categories
from instructrec_jax.records import Item

_WORD = re.compile(r"\w+")
# Said of the user, these make a preference one in the first person.
_FIRST_PERSON = re.compile(
  r"(?<![\w'])(?:i(?:'m|'ve|'d|'ll)?|my|mine|me|myself)(?![\w'])",
  re.IGNORECASE,
)
# I after a name or one of these is a numeral, if no verb comes next.
_NUMBERED = re.compile(
  r"(\w[^.!?]* [A-Z]\w+|"
  r"\b([Pp]art|[Vv]olume|[Cc]hapter|[Tt]ype|[Cc]lass|[Ww]ar)) $"
)
_VERB = re.compile(
  r" (\w+ly )?(am|was|have|had|do|like|love|enjoy|prefer|want|need|play|buy|"
  r"use|read|watch|own|can|could|will|would|always|often|never|also)\b"
)
_THIRD_PERSON = re.compile(r"^(the|this) (user|customer|shopper|buyer)\b")
_WISH = re.compile(
  r"(?<!you )(?<!one )(?<!n't )(?<!never )(?<!my )(?<!your )(?<!no )"
  r"\b(needs?|wants?|requires?|wish)\b"
  r"|(?<!you are )(?<!you're )(?<!was )(?<!were )\b(look|looking|search|"
  r"searching|shopping|hoping) (for|to)\b"
  r"|\b(in (search|need|the market) (of|for)|trying to find|interested in|"
  r"i'm after|recommendations?|suggestions?|please|ideally|preferably|"
  r"(can|could|would|will|do|does) (you|any ?one|some ?one)|let me|"
  r"(i|we)('d| would)( \w+)? (like|love|prefer|appreciate)|"
  r"(show|find|help|give|get) (me|us)|"
  r"(it|they|that|which) (should|must|has to|have to)|"
  r"(buying|giving|getting|finding|choosing) .*\bfor (my|our))\b"
  # A noun alone, as in "some gifts for my son".
  r"|^(?!.*\b(great|excellent|awesome|amazing|perfect|fantastic|must)\b)"
  r"((some(thing)?|any(thing)?|an?|new) [^.!]*|[^.!]* for (my|our) \w+)$",
  re.IGNORECASE,
)
_PAST_PURCHASE = re.compile(
  r"\b(bought|purchased|ordered|received|returned|picked up|got|been using|had|"
  r"own|owned|tried) ((my|our|\w+ of) )?(this|these|it|them)\b"
  r"|(?<!would )(?<!'d )(?<!\w to )\b(loves?|loved|adore|enjoy|likes?|liked|"
  r"hated?|recommend|(happy|pleased|satisfied|impressed|disappointed) with) "
  r"(this|these|it|them)\b",
  re.IGNORECASE,
)
_FUNCTION_WORDS = frozenset(
  "a an and are as at be by for from i in into is it its my of on or our s so "
  "t that the this to up with without you your".split()
)
# Written with capitals, and nobody's.
_CALENDAR = frozenset(
  "christmas easter halloween thanksgiving valentine valentines hanukkah xmas "
  "english american".split()
)
# What so many titles share is the name of none.
_ORDINARY_SHARE = 0.01
MOST_REVIEWS = 20_000
"""From all over the data; more would tell hardly more."""


class Quality(enum.StrEnum):
  """Verdict on one text of an answer."""

  OK = "ok"
  EMPTY = "empty"
  """The teacher had nothing to say."""
  TITLE_LEAK = "title_leak"
  """The intention names its target, or a brand."""
  WRONG_PERSONA = "wrong_persona"
  """A preference that says "I", or an intention about "the user"."""
  PAST_PURCHASE = "past_purchase"
  """An intention that speaks of what was bought."""
  NO_WISH = "no_wish"
  """An intention that asks for nothing, such as an opinion."""
  REFUSED = "refused"
  TRUNCATED = "truncated"
  MALFORMED = "malformed"
  FAILED = "failed"
  JUDGED_NO = "judged_no"
  """A judge denied that it tells an intention or preference."""


class TitleWords:
  """Which words of a catalogue's titles are names, by how reviews write them.

  "Snark" is: reviews hardly ever write it in lower case, and no category has
  it. "Guitar tuner" is not, though it stands in titles too.
  """

  def __init__(self, items: Sequence[Item], reviews: Iterable[str] = ()):
    """Counts the words of titles, categories and some of the reviews."""
    labels = [_words(c) for i in items for c in clean_categories(i.categories)]
    self._label_words = {
      form
      for words in labels
      for w in words
      for form in (w, w.removesuffix("s"))
    }
    self._never_names = self._label_words | _CALENDAR | _FUNCTION_WORDS
    self._label_runs = {run for words in labels for run in _runs(words)}
    self._titles = collections.Counter()
    first = collections.Counter()
    for item in items:
      words = _words(item.title)
      self._titles.update({*words, *_runs(words)})
      first.update(words[:1])
    self._ordinary = max(_ORDINARY_SHARE * len(items), 3)
    self._lower, self._capital = collections.Counter(), collections.Counter()
    for review in reviews:
      # A sentence's first word is written with a capital whatever it is.
      for word in set(re.findall(r"(?<=[a-z,] )[A-Za-z]\w+", review)):
        if (low := word.lower()) in self._titles:
          (self._lower if word[0].islower() else self._capital)[low] += 1
    self.brands = frozenset(
      word
      for word, count in first.items()
      if count > 1 and self._capital[word] > 1 and self.is_name(word)
    )

  def is_name(self, word: str) -> bool:
    """Whether a word of a title, in lower case, is a brand's or product's."""
    if len(word) < 3 or word.isdigit() or word in self._never_names:
      return False
    lower, capital = self._lower[word], self._capital[word]
    if not lower + capital:
      return self._titles[word] < self._ordinary
    return lower <= capital

  def is_brand(self, word: str, said: str) -> bool:
    """Whether a word, written as `said`, is a brand of the catalogue's.

    One that is also a common word, such as Red, is so with a capital alone.
    """
    is_common = self._lower[word] * 5 > self._capital[word]
    return word in self.brands and not (is_common and said.islower())

  def is_ordinary(self, run: str) -> bool:
    """Whether a run of words is a kind of product, not this one's name."""
    if any(map(self.is_name, run.split())):
      return False
    if " " not in run:
      return run in self._label_words
    return run in self._label_runs or self._titles[run] >= self._ordinary


def judge(
  kind: str, text: str, *, title: str = "", words: TitleWords | None = None
) -> Quality:
  """Checks one text; see `Quality`.

  Args:
    kind: "preference" or "intention".
    text: of the answer, on one line.
    title: of an intention's target.
    words: of the catalogue; without them any two words of the title in a row
      name it, "guitar tuner" as well as "Snark SN2".
  """
  if not text:
    return Quality.EMPTY
  plain = text.replace("’", "'")
  if kind == "preference":
    return Quality.WRONG_PERSONA if _says_i(plain) else Quality.OK
  if _THIRD_PERSON.search(plain.lower()):
    return Quality.WRONG_PERSONA
  if names_title(text, title, words=words):
    return Quality.TITLE_LEAK
  if _PAST_PURCHASE.search(plain):
    return Quality.PAST_PURCHASE
  return Quality.OK if is_wish(plain) else Quality.NO_WISH


def is_wish(text: str) -> bool:
  """Whether a text asks for something, in the present tense.

  It does with a word of asking (need, want, looking for, I'd like, recommend,
  please, can you, show me, should) or as a noun phrase alone ("some gifts for
  my son"); "I needed one" is a report.
  """
  return bool(_WISH.search(text.replace("’", "'")))


def names_title(
  text: str, title: str, *, words: TitleWords | None = None
) -> bool:
  """Whether a text names a title or brand.

  Two of the title's words in a row do, and so does a title of one word; with
  a catalogue's `words`, not those of a kind of product, but any single name.
  """
  own, said = _words(title), _words(text)
  phrase = f" {' '.join(said)} "
  alone = [word for word in own if word not in _FUNCTION_WORDS]
  for run in _runs(own) or alone:
    if f" {run} " in phrase and not (words and words.is_ordinary(run)):
      return True
  return words is not None and any(
    (word in own and words.is_name(word)) or words.is_brand(word, as_said)
    for word, as_said in zip(said, _WORD.findall(text), strict=False)
  )


def _words(text: str) -> list[str]:
  return _WORD.findall(text.lower())


def _runs(words: Sequence[str]) -> list[str]:
  """Returns each two neighbours that mean something, and what is between."""
  places = [i for i, word in enumerate(words) if word not in _FUNCTION_WORDS]
  return [
    " ".join(words[first : second + 1])
    for first, second in zip(places, places[1:], strict=False)
  ]


def _says_i(text: str) -> bool:
  """Whether somebody speaks of themselves; World War I does not count."""
  for found in _FIRST_PERSON.finditer(text):
    before, after = text[: found.start()], text[found.end() :]
    if found[0] == "I" and _NUMBERED.search(before) and not _VERB.match(after):
      continue
    is_first = not before.strip() or before.rstrip()[-1] in ".!?"
    if found[0].istitle() and found[0] != "I" and not is_first:
      # My Little Pony, Despicable Me.
      if re.match(r" [A-Z]", after) or re.search(r"[A-Z]\w* $", before):
        continue
    return True
  return False
