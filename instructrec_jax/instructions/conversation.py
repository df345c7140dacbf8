"""A conversation -> one instruction, and what no answer to it may be.

A turn is what a user says, and the titles that were shown for it. What a turn
adds is read by rules, in English: a wish, words that an answer must have ("in
green", "only from Alder", "make it a kayak") or must not have ("not orange",
"not from that brand"), an item to refuse ("not the first") or to find more of
("more like the second"). Whatever no rule reads ("cheaper", "what about for
kids?", another language) is added to the wish, for the model to read.

What is refused never comes back; that is no matter of a model. What must or
must not be is put before what the model finds likely, and given up, the oldest
first, where no title would be left. What a later turn asks for takes back what
it excludes ("now a stove", after a tent), and "start over" all but that.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from instructrec_jax.errors import InputError, check_file
from instructrec_jax.instructions.utterance import denied_words

MAX_TURNS = 100
FILE = pathlib.Path(__file__).with_name("turns.yaml")
_ORDINALS = {
  name: number
  for number, names in enumerate(
    (
      ("first", "1st", "one"),
      ("second", "2nd", "two"),
      ("third", "3rd", "three"),
      ("fourth", "4th", "four"),
      ("fifth", "5th", "five"),
      ("sixth", "6th", "six"),
      ("seventh", "7th", "seven"),
      ("eighth", "8th", "eight"),
      ("ninth", "9th", "nine"),
      ("tenth", "10th", "ten"),
    )
  )
  for name in names
}
_ANY = "|".join([*_ORDINALS, r"\d{1,2}"])
# "The one with pockets" is not the first.
_NTH = rf"(?!(?:one|two|three|four|five|six|seven|eight|nine|ten)\b)(?:{_ANY})"
# A clause ends here, be it with an emoji; "black & white" goes on.
_END = r"(?=\s*(?:[^\w\s'&/+-]|$))"
# "The first time" is no item.
_NO_NOUN = (
  r"\b(?! (?!(?:and|but|or|nor|in|from|with|only|instead|either|please|though|"
  r"again|is|was|are|were|which|because|as|since|then)\b)\w|-)"
)
# "The second", "the first two", "number two", "#2", "the last one", "that one".
_ITEM = (
  rf"(?:(?:the|your) (?P<end>first|last) (?P<count>{_ANY})(?: ones| items)?"
  rf"{_NO_NOUN}|(?:the|your) (?P<ordinal>{_NTH})(?: one| item)?{_NO_NOUN}|"
  rf"(?:the )?(?:number|no\.|item) ?(?P<number>{_ANY})|#(?P<mark>\d{{1,2}})|"
  rf"(?P<last>the last(?: one)?{_NO_NOUN})|"
  rf"(?P<that>that(?: one)?|this(?: one)?|it){_END})"
)
# "The first or the second".
_MORE = (
  rf"(?P<more>(?:(?:,|,? (?:and|or|nor)) (?:the |number |#)?{_NTH}"
  rf"(?: one)?{_NO_NOUN})*)"
)
_LIKE = re.compile(
  rf"\b(?:more|something|another|others?|anything|one|some) (?:\w+ )?"
  rf"(?:like|similar to) {_ITEM}{_MORE}",
  re.IGNORECASE,
)
# "The second is nice, anything similar?"
_SIMILAR = re.compile(
  rf"{_ITEM}[^.!?]{{0,60}}\b(?:more|another|others?|any|one|some|"
  r"something|anything) (?:\w+ )?"
  rf"(?:similar|like (?:it|that|this)(?: one)?){_END}",
  re.IGNORECASE,
)
# "I like the second", "the second looks good".
_PRAISED = re.compile(
  rf"\b(?:i|we) (?:really |do |also )?(?:like|love) {_ITEM}",
  re.IGNORECASE,
)
_LOOKS_GOOD = re.compile(
  rf"(?:^|[,.;!?] ?){_ITEM} (?:is|looks|seems|sounds) (?:\w+ )?"
  rf"(?:good|nice|great|lovely|interesting|close){_END}",
  re.IGNORECASE,
)
# "The first but smaller": the first itself is not what is asked for.
_BUT = re.compile(
  rf"(?:^|[,.;!?] ?)(?:and |ok(?:ay)?,? |maybe )?{_ITEM}(?=,? but (?!not\b))",
  re.IGNORECASE,
)
# What was asked before no longer holds.
_AFRESH = re.compile(
  r"\b(?:(?:let's )?start (?:over|again|afresh)|forget (?:about )?(?:it|all "
  rf"that|everything)|never ?mind|new search){_END}[,.:;!]?",
  re.IGNORECASE,
)
# What was denied is no longer.
_FINE = re.compile(
  r"\b(?P<words>[\w'-]+(?: (?:or|and) [\w'-]+)?)(?: ones?)?(?:'s| is| are|"
  r" would be) (?:\w+ )?(?:fine|ok(?:ay)?|all ?right|good|too)\b",
  re.IGNORECASE,
)
_REFUSED = re.compile(
  r"\b(?:not|no|without|don't (?:want|like)|do not (?:want|like)|hate|dislike|"
  r"remove|drop|skip|forget|anything but|except(?: for)?|neither) "
  rf"{_ITEM}{_MORE}",
  re.IGNORECASE,
)
_REFUSED_ALL = re.compile(
  r"\b(?:none of (?:these|those|them)|not (?:these|those|any of (?:these|those|"
  r"them))|(?:don't|do not) (?:want|like) (?:any of )?(?:these|those|them)|"
  r"(?:something|anything|show me (?:something|some)?) ?(?:else|others?|"
  r"different)|what else|(?:any|some) others?(?= one|[^\w\s]|$)|"
  r"other (?:options|ones|suggestions))\b",
  re.IGNORECASE,
)
# A whole turn: "no", "next", "show me more".
_NEXT = re.compile(
  r"(?:no|nope|nah|none|next|another|(?:ok(?:ay)?,? |and |yes,? )?(?:(?:show|"
  r"give) me )?(?:some |a few |any )?more)(?: one| options| choices| please|"
  r" of them)*\W*",
  re.IGNORECASE,
)
_CHOSEN = re.compile(
  r"\b(?:i'll|i will|i'd|let me|i've|i) (?:already |just |also )?(?:take|buy|"
  r"have|own|got|choose|go (?:for|with)|bought|took|chose|pick) "
  rf"{_ITEM}{_MORE}",
  re.IGNORECASE,
)
# A turn that is an item alone: "the second, please".
_TAKEN = re.compile(
  rf"^(?:ok(?:ay)?,? |then |yes,? )?{_ITEM}{_MORE}(?:,? (?:please|then|thanks|"
  r"thank you))*\W*$",
  re.IGNORECASE,
)
_BRAND = re.compile(
  r"\b(?P<not>(?:not|no(?:thing|ne)?|never|anything but|except|without|don't "
  r"(?:want|like)|do not (?:want|like)) (?:\w+ )?)?(?:(?:from|by|of) )?"
  r"(?P<which>that|this|(?:the )?same|another|(?:a )?different|other|wrong) "
  r"(?:brand|maker|make|manufacturer|author|artist|band)s?\b(?! of)"
  rf"(?: (?:as|than) {_ITEM})?",
  re.IGNORECASE,
)
# What an answer must have: only what is said as a condition, since the words of
# a wish ("a game for my nephew") need not be in a title that fulfils it.
_MUST = re.compile(
  r"(?:\b(?:(?:only|just)(?: (?:from|by|in|the|show me))*|"
  r"(?:must|should|has to|needs to) be(?: (?:from|by|in|an?|the))*|"
  r"make (?:it|them|that)(?: (?:an?|the|in))?|(?:ones?|it|that|same) in|"
  r"(?:any|some|more|others?|ones?|(?:any|some)thing) (?:from|by|in)(?: the)?|"
  r"(?:same|one|first|last|second|third)(?: one| thing)?,? but(?: in)?|"
  r"(?:i (?:meant|mean|said)|back to)(?: (?:an?|the|in|from))?|"
  r"(?:rather|i prefer|i'd prefer)(?: (?:have|see|an?|the|one|from|by|in))*|"
  r"(?:what|how) about(?: an?)?|now(?: an?)?)|"
  r"(?:^|[,.;!?]|\bbut|\band) ?(?:in|from|by)) "
  r"(?P<words>[\w'-]+(?: (?:or|and) [\w'-]+|(?: [\w'-]+){0,2}?)?)"
  rf"(?: ones?| please| instead| then| now)*{_END}",
  re.IGNORECASE,
)
_INSTEAD = re.compile(
  r"(?:^|[,.!?;]\s*)(?:no,? )?(?:an? |the )?(?P<words>[\w'-]+(?: [\w'-]+)?)"
  rf"(?: ones?)? (?:instead|only)(?: please)?{_END}",
  re.IGNORECASE,
)
# A wish of its own: a condition, where it excludes what was asked before, or
# tells apart what was shown.
_WISH = re.compile(
  r"(?:^|[,.:;!?] ?)(?:(?:and|or|but|so|no|ok(?:ay)?|well|maybe|perhaps|"
  r"actually|now|then),? )*(?:(?:show|find|get|give) (?:me|us) |"
  r"(?:i|we)(?:'d like|'ll need|'m looking for|'m after| want| need|"
  r" am looking for) |looking for |do you (?:have|sell) |got )?"
  r"(?:(?:an?|any|some|the) )?"
  r"(?P<words>[\w'-]+(?: (?:or|and) (?:an? )?[\w'-]+|(?: [\w'-]+){0,2}?)?)"
  r"(?: ones?| please| instead| then| now| too| as well|"
  r" to go with (?:it|that|them|this)| in (?:the same|that|this) \w+)*"
  rf"(?: for [\w' ]+)?{_END}",
  re.IGNORECASE,
)
# Words that say nothing of a product.
_SMALL = frozenset(
  word.removesuffix("s")
  for word in (
    "a an the and or of in on for with to from by at one ones it them that "
    "this these those please something anything some any more less me my i "
    "i'm i'd im d m you we us no yes ok okay thank thanks looking look find "
    "show need want give get would like rather have only be should must make "
    "what how about now instead then but so though too also actually maybe "
    "perhaps said meant mean same"
  ).split()
)
# Words that never meet in a title exclude each other if chance alone would
# have had them meet in as many.
_EXPECTED = 1.0
_POLITE = re.compile(r",? ?\b(?:please|thanks|thank you)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
  """What a user said, and what came of it.

  Attributes:
    words: the user's own.
    shown: titles that were answered, the best first; () before they are.
    refused: titles that the user has rejected by other means, such as a button.
    chosen: titles that the user has taken.
  """

  words: str
  shown: tuple[str, ...] = ()
  refused: tuple[str, ...] = ()
  chosen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
  """What a conversation has come to.

  Attributes:
    words: what was asked, and what narrowed it, the oldest first.
    required: words that an answer must have, each with others that would do as
      well; the oldest first.
    denied: words that it must not have, in lower case.
    refused: titles that must not come back.
    chosen: titles that the user has taken.
    liked: titles to find more of, the oldest first.
    unread: of the last turn but a first one, what no rule reads and no title
      has a word of: only the model can tell what to make of it.
  """

  words: tuple[str, ...] = ()
  required: tuple[tuple[str, ...], ...] = ()
  denied: tuple[str, ...] = ()
  refused: tuple[str, ...] = ()
  chosen: tuple[str, ...] = ()
  liked: tuple[str, ...] = ()
  unread: str = ""


@dataclasses.dataclass(frozen=True)
class Catalogue:
  """What rules ask of a catalogue: which words tell its titles apart.

  Attributes:
    words: each word of a title, in lower case and singular: its titles.
    size: the number of titles.
  """

  words: Mapping[str, frozenset[int]]
  size: int

  @classmethod
  def of(cls, titles: Sequence[str]) -> "Catalogue":
    """Indexes the words of titles."""
    found: dict[str, set[int]] = {}
    for number, title in enumerate(titles):
      for word in _words(title):
        found.setdefault(word, set()).add(number)
    words = {word: frozenset(of) for word, of in found.items()}
    return cls(words, len(titles))

  def having(self, words: Iterable[str]) -> frozenset[int]:
    """Returns the titles with one of some words."""
    return frozenset[int]().union(*(self.words.get(w, ()) for w in words))

  def fulfilling(
    self, need: "Need", excluded: Iterable[int] = ()
  ) -> tuple[frozenset[int], tuple[str, ...]]:
    """Returns the titles that a need allows, and the words it gives up.

    What is required is given up before what is denied, the oldest first, until
    there is a title left.

    Args:
      need: of a conversation.
      excluded: titles that are never an answer.
    """
    every = frozenset(range(self.size)).difference(excluded)
    rules = [(self.having(each), each) for each in need.required]
    rules += [
      (every - self.having([word]), (f"not {word}",)) for word in need.denied
    ]
    for first in range(len(rules) + 1):
      left = every.intersection(*(titles for titles, _ in rules[first:]))
      if left:
        given_up = [word for _, each in rules[:first] for word in each]
        return left, tuple(given_up)
    return every, ()

  def scarce(
    self, need: "Need", left: Iterable[int], shown: Sequence[int]
  ) -> tuple[str, ...]:
    """Returns words of a wish that too few titles have to fill an answer.

    A wish need not be in the words of a title that fulfils it. But where every
    title that has one, of those that are left, is shown, and others beside
    them, the others only come near.

    Args:
      need: of a conversation.
      left: titles that `fulfilling` allows.
      shown: those of them that are answered.
    """
    left, answer = frozenset(left), frozenset(shown)
    said = [w for part in need.words for w in _words(part, in_order=True)]
    found = []
    for word in dict.fromkeys(said):
      having = self.having([word]) & left
      if word not in _SMALL and having and having < answer:
        found.append(word)
    # Of "a rope and a helmet" no title has both.
    return tuple(word for word in found if not _rivals([word], self, found))


def read(turns: Sequence[Turn], *, catalogue: Catalogue) -> Need:
  """Returns what turns come to, the last one included.

  Args:
    turns: the oldest first.
    catalogue: whose words may be required: others are the model's to read.

  Raises:
    InputError: there is no turn, there are too many, or the last says nothing.
  """
  if not turns:
    raise InputError("a conversation begins with a turn: say something.")
  if len(turns) > MAX_TURNS:
    raise InputError(
      f"the conversation has {len(turns):,} turns: at most {MAX_TURNS} can be "
      "answered; begin another."
    )
  need, shown = Need(), ()
  for turn in turns:
    need = _after(need, turn, shown, catalogue)
    need = dataclasses.replace(
      need,
      refused=_joined(need.refused, turn.refused),
      chosen=_joined(need.chosen, turn.chosen),
    )
    shown = turn.shown or shown
  return need


def compose_words(
  need: Need,
  wording: Mapping[str, str],
  *,
  shown: Sequence[str] = (),
  left_out: int = 0,
) -> str:
  """Returns the query of a need.

  Args:
    need: what a conversation has come to.
    wording: of its parts, the `composed` of `load_turns`; a part whose wording
      is empty is left out.
    shown: titles that were shown last.
    left_out: parts to leave out, the oldest first, but for the first wish,
      without which what was narrowed says nothing.
  """
  denied = {*need.denied}
  told: list[tuple[str, str]] = [
    ("narrowed" if number else "asked", part)
    for number, part in enumerate(need.words)
  ]
  told += [("shown", title) for title in shown]
  told += [("chosen", title) for title in need.chosen]
  told += [("refused", title) for title in need.refused]
  told += [
    ("like", title) for title in need.liked[-1:] if not _words(title) & denied
  ]
  parts = [wording[name].format(text) for name, text in told if wording[name]]
  kept = [*parts[:1], *parts[1 + left_out :]]
  return ", ".join(text.rstrip(" .!?,;") for text in kept)


def _after(
  need: Need, turn: Turn, shown: Sequence[str], catalogue: Catalogue
) -> Need:
  """Returns a need with what one turn says of the titles shown before it."""
  left = " ".join(turn.words.replace("’", "'").split())
  if match := _AFRESH.search(left):
    need = Need(refused=need.refused, chosen=need.chosen)
    left = left.replace(match[0], " ", 1).strip()
  refused, liked, chosen = [], [], []
  denied: list[str] = []
  required: list[tuple[str, ...]] = []
  # Liked before refused: "not that, more like the second".
  for pattern, into in (
    (_SIMILAR, liked),
    (_LIKE, liked),
    (_BUT, liked),
    (_LOOKS_GOOD, liked),
    (_PRAISED, liked),
    (_CHOSEN, chosen),
    (_TAKEN, chosen),
    (_REFUSED, refused),
  ):
    for match in pattern.finditer(left):
      if titles := _items(match, shown):
        into += titles
        left = left.replace(match[0], " ", 1)
  pattern = _NEXT if _NEXT.fullmatch(turn.words.strip()) else _REFUSED_ALL
  if shown and pattern.search(left):
    refused += shown
    left = pattern.sub(" ", left)
  if shown and (match := _BRAND.search(left)):
    # Titles begin with their brand: it is all that a title tells of it.
    named = [*refused[-1:], shown[0]]
    (about, *_) = [*_items(match, shown), *named]
    brand = next(iter(_words(about, in_order=True)), "")
    is_other = match["not"] or match["which"].lower().endswith(
      ("other", "different", "wrong")
    )
    if brand and is_other:
      denied.append(brand)
    elif brand:
      required.append((brand,))
    left = left.replace(match[0], " ", 1)
  denied += [
    word
    for each in denied_words(left)
    # "Not the tenth", where ten were not shown, is no word of a title.
    if each not in _ORDINALS
    for word in _words(each, in_order=True)
  ]
  before = {word for part in need.words for word in _words(part)}
  before |= {word for each in need.required for word in each}
  seen = {word for title in shown for word in _words(title)}
  for pattern in (_INSTEAD, _MUST, _WISH):
    for match in pattern.finditer(left):
      found = _required(match["words"], catalogue, {*denied})
      asked = {word for each in found for word in each}
      if (
        pattern is not _WISH
        or asked & seen == asked
        or _rivals(asked, catalogue, before)
      ):
        required += found
  fine: set[str] = set()
  for match in _FINE.finditer(left):
    if lifted := _words(match["words"]) & {*need.denied}:
      fine |= lifted
      left = left.replace(match[0], " ", 1)
  if need.required and required and left.lower().startswith("or "):
    # "Or Corvo": beside what it would exclude.
    *others, last = need.required
    more = [word for each in required for word in each]
    if _rivals(more, catalogue, last):
      need = dataclasses.replace(need, required=tuple(others))
      required = [(*last, *more)]
  text = " ".join((_without_denials(left) if denied else left).split())
  text = _POLITE.sub("", text).strip(" ,;:.!?").removeprefix("but ")
  new = {word for each in required for word in each}
  # What is no longer wanted is not told to the model, either: it would read
  # the words.
  gone = _rivals(new, catalogue) | {*denied}
  parts = [_without_words(part, gone, catalogue) for part in need.words]
  meant = _words(text) - _SMALL
  if meant:
    parts.append(text)
  is_read = bool(refused or liked or chosen or denied or required or fine)
  is_told = is_read or not need.words or meant & catalogue.words.keys()
  kept = [each for each in need.required if not gone & {*each}]
  return Need(
    words=tuple(dict.fromkeys(filter(None, parts))),
    required=tuple(dict.fromkeys([*kept, *required])),
    denied=_joined([w for w in need.denied if w not in new | fine], denied),
    refused=_joined(need.refused, refused),
    chosen=_joined(need.chosen, chosen),
    liked=_joined(
      [t for t in need.liked if t not in (*refused, *liked)], liked
    ),
    unread="" if is_told or not meant else text,
  )


def _items(match: re.Match[str], shown: Sequence[str]) -> list[str]:
  """Returns the titles that a turn means, of those that were shown."""
  found = match.groupdict()
  if found["that"]:
    return [*shown[:1]]
  if found["last"]:
    return [*shown[-1:]]
  if found["count"]:
    count = _number(found["count"])
    is_first = found["end"].lower() == "first"
    return [*(shown if is_first else shown[::-1])[:count]]
  named = (found[name] for name in ("ordinal", "number", "mark"))
  said = [*filter(None, named)]
  said += re.findall(rf"\b{_NTH}\b", found.get("more") or "", re.IGNORECASE)
  places = (_number(each) - 1 for each in said)
  return [shown[place] for place in places if 0 <= place < len(shown)]


def _number(word: str) -> int:
  """Returns the number of a word or of digits, from 1."""
  return int(word) if word.isdigit() else _ORDINALS[word.lower()] + 1


def _required(
  said: str, catalogue: Catalogue, denied: set[str]
) -> list[tuple[str, ...]]:
  """Returns what each of the words requires, if titles have such words."""
  lower = {*said.lower().split()}
  if lower & {"for", "something", "anything", *_ORDINALS} - {"one"}:
    # "What about for kids?", "Now something scary": nothing that titles say.
    return []
  if " or " in said.lower():
    words = [_singular(w) for w in re.split(" or (?:an? )?", said.lower())]
    known = tuple(w for w in words if w in catalogue.words and w not in denied)
    return [known] if known else []
  words = [w for w in _words(said, in_order=True) if w not in _SMALL]
  if not words or not all(w in catalogue.words for w in words):
    # A condition, but none on what titles say.
    return []
  words = [word for word in words if word not in denied]
  if any(_rivals([word], catalogue, words) for word in words):
    # "A rope and a helmet": no title is both.
    return [tuple(words)]
  return [(word,) for word in words]


def _rivals(
  new: Iterable[str],
  catalogue: Catalogue,
  among: Iterable[str] | None = None,
) -> set[str]:
  """Returns the words that exclude the new ones, see `_EXPECTED`.

  Args:
    new: words.
    catalogue: whose titles tell.
    among: words that may be returned; all of the catalogue if None.
  """
  new = {*new}
  known = catalogue.words
  others = known.keys() if among is None else known.keys() & {*among}
  found: set[str] = set()
  for word in new:
    having = known.get(word, frozenset())
    for other in others - new:
      expected = len(having) * len(known[other]) / max(catalogue.size, 1)
      if expected >= _EXPECTED and having.isdisjoint(known[other]):
        found.add(other)
  return found


def _without_denials(text: str) -> str:
  """Returns a turn without its clauses that deny something."""
  text = re.sub(r"\bany [\w'-]+ but\b", "not", text)
  clauses = re.split(r"(?<=[,.!?;])\s+|(?<!thing)\s+(?:but|and)\s+", text)
  return " ".join(clause for clause in clauses if not denied_words(clause))


def _without_words(text: str, gone: set[str], catalogue: Catalogue) -> str:
  """Returns a text without words, "" if it then says nothing of a product."""
  if not _words(text) & gone:
    return text
  kept = " ".join(w for w in text.split() if not _words(w) & gone)
  # "A tent or a", without the hammock.
  kept = re.sub(r"[ ,;]*(?:\b(?:or|and|an?|the|in|from)[ ,;]*)+$", "", kept)
  left = _words(kept) - _SMALL
  return kept.strip(" ,;") if left & catalogue.words.keys() else ""


def _joined(before: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
  return tuple(dict.fromkeys([*before, *more]))


def _words(text: str, *, in_order: bool = False) -> Any:
  found = [_singular(w) for w in re.findall(r"\w+", text.casefold())]
  return list(dict.fromkeys(found)) if in_order else {*found}


def _singular(word: str) -> str:
  return word.removesuffix("s")


@functools.cache
def load_turns(path: pathlib.Path = FILE) -> dict[str, Any]:
  """Reads a file of turns' templates: `composed` and `said` of `turns.yaml`.

  Raises:
    InputError: it is no YAML of that form.
  """
  check_file(path, is_small=True)
  try:
    turns = yaml.safe_load(path.read_text(encoding="utf-8"))
    composed = {name: str(turns["composed"][name] or "") for name in _COMPOSED}
    said = {k: [str(text) for text in v] for k, v in turns["said"].items()}
    if not composed["asked"]:
      raise ValueError("the wording of `asked` is empty")
    for text in composed.values():
      # Other braces raise an error of their own.
      if text and (text.count("{}") != 1 or not text.format("x")):
        raise ValueError(f"{text!r} is to have one {{}}")
  except (
    *(OSError, yaml.YAMLError, LookupError, TypeError, ValueError),
    *(AttributeError, RecursionError),
  ) as error:
    said = [*str(error).splitlines(), type(error).__name__][0]
    raise InputError(
      f"{path}: no file of turns ({said:.120}); see "
      "instructions/turns.yaml of the package."
    ) from None
  return {"composed": composed, "said": said}


_COMPOSED = ("asked", "narrowed", "shown", "chosen", "refused", "like")
