"""Splits a user's words into lasting preference and current intention."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterator

from instructrec_jax.data.cleaning import clean_title
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.persona import first_person
from instructrec_jax.instructions.render import ends_sentence, plain_words

KINDS = {
  "preference": Query.PREFERENCE,
  "vague": Query.VAGUE,
  "specific": Query.SPECIFIC,
}
AUTO = "auto"

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WISH = re.compile(
  r"\b(want|need|wish|searching|looking for|shopping for|please|(can|could) "
  r"you|(i|we)('d| would)|something|anything|today|tonight|right now|this "
  r"time|(buying|giving|getting) [^.!?]*for (my|our|an?))\b|"
  r"^(find|show|give|get|recommend|suggest|help)\b",
  re.IGNORECASE,
)
_TASTE = re.compile(
  r"\b(i|we|s?he|they|the user) ((\w+ly|\w+n't|do not|also|just) )*"
  r"(likes?|loves?|enjoys?|prefers?|adores?|hates?|dislikes?|collects?|avoids?|"
  r"appreciates?|usually|generally|always|mostly|often|never|tends?)\b"
  r"|\b(i am|i'm|we are|we're|(s?he|the user) is) (\w+ )?"
  r"(into|an? (\w+ )?fan|fond)\b"
  r"|^(usually|generally|always|mostly),? (i|we)\b"
  r"|\b(my|our|his|her|the user's) (\w+ )?favou?rites?\b",
  re.IGNORECASE,
)
# A clause has a pronoun or an unambiguous verb.
_CLAUSE = re.compile(
  r"\b(i|i'm|me|my|we|us|our|you|your|he|she|they|it|it's|am|is|are|was|were|"
  r"be|been|do|does|did|don't|have|has|had|can|could|will|would|should|must|"
  r"that|which|who|what|how|if|when|because)\b",
  re.IGNORECASE,
)
_LONGEST_LABEL = 6
# What is denied comes after one of these, and after an article.
_DENIAL = re.compile(
  r"(?:\b(?:(?:don't|do not|doesn't|does not|didn't|did not|never) "
  r"(?:want|like|need|enjoy|wear|use)s?|not|no|nothing|neither|without|"
  r"except(?: for)?|exclude|remove|hide|other than|any(?:thing| [\w'-]+)? but|"
  r"hates?|dislikes?|avoids?) "
  r"(?:(?:in|a|an|any|the|one|of|from|with|into|more|another|those|your|made|"
  r"by) )*|"
  r"(?<!\S)-(?=[a-z]))([\w'-]+(?: (?:or|nor) [\w'-]+)*)",
  re.IGNORECASE,
)
# "Why not a tent?", "I have no tent", "no tent yet": it is asked for.
_NO_DENIAL_AFTER = re.compile(
  r"\b(?:why|have|has|had|got|own|there's|is|are|was|were)\s+$", re.IGNORECASE
)
_NO_DENIAL_BEFORE = re.compile(r"\s+(?:yet|left|anymore)\b", re.IGNORECASE)
# "Not sure", "not only", "no more than": nothing is denied.
_NO_DENIAL = frozenset(
  "sure too very only just so that this it them much many want wants like need "
  "know have has had be been being am is are was really yet less than "
  "necessarily mind care i my me you he she they we to for at on as if because "
  "matter longer idea problem what which but sell stock hurry later sooner "
  "even quite all always ever "
  "exactly looking interested fussy picky certain afraid able enough else good "
  "great new old best bad brand preference particular specific".split()
)


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
  """A user's words by kind; "" for none."""

  preference: str = ""
  intention: str = ""
  # Of the intention: vague or specific.
  kind: Query = Query.VAGUE
  context: str = ""
  # Whether one of these is made of two texts.
  concatenated: bool = False

  def __bool__(self) -> bool:
    """Whether anything was said."""
    return bool(self.preference or self.intention or self.context)


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
  """One way to distribute an utterance over a form's slots."""

  # The kind of the query, and its words.
  query: Query | None = None
  text: str = ""
  preference: str = ""
  context: str = ""
  concatenated: bool = False


def kind_of(sentence: str) -> Query:
  """Classifies a sentence by the first rule that applies.

  1. A word of wishing (want, need, looking for, something, tonight, find me,
     buying for): a vague intention.
  2. A statement of taste (I like, he prefers, I usually, I'm a fan, my
     favourite): a preference.
  3. A list of labels, none longer than six words, without a pronoun, an
     auxiliary verb or a conjunction: a specific intention.
  4. Anything else: a vague intention.
  """
  plain = sentence.replace("’", "'").strip()
  if _WISH.search(plain):
    return Query.VAGUE
  if _TASTE.search(plain):
    return Query.PREFERENCE
  is_short = all(len(p.split()) <= _LONGEST_LABEL for p in plain.split(","))
  if is_short and not _CLAUSE.search(plain):
    return Query.SPECIFIC
  return Query.VAGUE


def denied_words(*texts: str) -> tuple[str, ...]:
  """Returns what a user says it must not be, in lower case.

  "A tent, not orange", "no orange or green", "I don't want an orange one",
  "anything but orange", "-orange". English only.
  """
  found: dict[str, None] = {}
  for text in texts:
    for match in _DENIAL.finditer(text.replace("’", "'")):
      if match[0].istitle() and " " in match[0]:
        # A name: No Doubt.
        continue
      is_noun = match[0].lower().startswith(("no ", "not a ", "not the "))
      if is_noun and (
        _NO_DENIAL_AFTER.search(text[: match.start()])
        or _NO_DENIAL_BEFORE.match(text[match.end() :])
      ):
        continue
      words = re.split(" (?:or|nor) ", match[1].lower())
      found |= dict.fromkeys(w for w in words if w not in _NO_DENIAL)
  return tuple(found)


def understand(
  words: str, *, preference: str = "", context: str = "", kind: str = AUTO
) -> Utterance:
  """Splits a user's words into lasting preference and intention.

  Words of kind "auto" are classified by `kind_of`, sentence by sentence.

  Raises:
    InputError: there is no such kind.
  """
  if kind not in (AUTO, *KINDS):
    raise InputError(
      f"the words cannot be of kind {kind!r}: name one of "
      f"{', '.join((AUTO, *KINDS))}."
    )
  sentences = _SENTENCE_END.split(words) if kind == AUTO else [words]
  kinds = [KINDS.get(kind) or kind_of(sentence) for sentence in sentences]
  tastes, wishes = [], []
  for sentence, each in zip(sentences, kinds, strict=True):
    (tastes if each == Query.PREFERENCE else wishes).append(sentence)
  return Utterance(
    preference=joined(preference, " ".join(tastes)),
    intention=" ".join(wishes),
    kind=Query.VAGUE if Query.VAGUE in kinds else Query.SPECIFIC,
    context=context,
    concatenated=bool(preference and tastes and words),
  )


def readings(said: Utterance, *, has_history: bool) -> Iterator[Reading]:
  """Yields the ways to show all of an utterance, best first.

  A text without a slot of its own is concatenated with the query: a preference,
  which then is in the first person, or a context.
  """
  if said.context:
    plain = dataclasses.replace(said, context="")
    for reading in readings(plain, has_history=has_history):
      yield dataclasses.replace(reading, context=said.context)
    said = dataclasses.replace(
      plain,
      intention=joined(said.intention, said.context),
      kind=Query.VAGUE,
      concatenated=said.concatenated or bool(said.intention),
    )
  preference, intention = said.preference, said.intention
  if intention:
    yield Reading(
      said.kind, intention, preference, concatenated=said.concatenated
    )
    if preference:
      both = joined(first_person(preference), intention)
      yield Reading(Query.VAGUE, both, concatenated=True)
  elif preference:
    asked = Reading(
      Query.PREFERENCE, preference, concatenated=said.concatenated
    )
    shown = Reading(preference=preference, concatenated=said.concatenated)
    yield from (shown, asked) if has_history else (asked, shown)
  else:
    yield Reading()


def joined(*texts: str) -> str:
  """Concatenates texts as sentences; empty ones are skipped."""
  *others, last = [plain_words(t) for t in texts if plain_words(t)] or [""]
  closed = [t if ends_sentence(t) else f"{t}." for t in others]
  return " ".join([*closed, last])


def printable(
  text: str, *, prints: Callable[[str], bool] | None = None
) -> tuple[str, str]:
  """Returns a text as one line of characters that the vocabulary has.

  It is cleaned as titles are. Accents are removed where the vocabulary lacks
  the accented letter; semicolons, which separate titles, become commas.

  Returns:
    The text, "" if no letter or digit is left, and the characters that were
    replaced or removed.
  """
  composed = unicodedata.normalize("NFC", text)
  cleaned = clean_title(composed).replace(";", ",")
  if prints is not None:
    cleaned = "".join(
      c if c == " " or prints(c) else _without_accent(c, prints)
      for c in cleaned
    )
    cleaned = " ".join(cleaned.split())
  if not any(map(str.isalnum, cleaned)):
    cleaned = ""
  lost = dict.fromkeys(c for c in composed if c != " " and c not in cleaned)
  return cleaned, "".join(lost)


def _without_accent(character: str, prints: Callable[[str], bool]) -> str:
  return "".join(
    part if prints(part) else " "
    for part in unicodedata.normalize("NFKD", character)
    if not unicodedata.combining(part)
  )
