"""Persona shift: from the first person to "the user", and back.

Instructions have preferences in the third person, users write in the first
(the paper's section 2.3.2); a preference that is quoted as a query is put into
the first person. English only, by rules: pronouns change and so do their verbs;
quoted titles never do.
"""

import dataclasses
import re

_TOKEN = re.compile(
  r"""
    "[^"]*" | “[^”]*” | «[^»]*»  # Quoted; single quotes only around a title,
    | (?<!\w)'(?=[A-Z])(?:[^'"]|(?<=\w)'(?=\w))*'(?!\w)  # or 'tis one.
    | (?:[A-Za-z]\.){2,}  # A.I.
    | \w+(?:['’-]\w+)* | \s+ | .
  """,
  re.VERBOSE | re.DOTALL,
)
# English words, all in lower case.
# "We" includes the user.
_SUBJECTS = ("i", "we")
_PRONOUNS = {
  **dict.fromkeys((*_SUBJECTS, "me", "us"), "the user"),
  **dict.fromkeys(("my", "mine", "our", "ours"), "the user's"),
  **dict.fromkeys(("myself", "ourselves"), "themselves"),
}
_CONTRACTIONS = {
  **dict.fromkeys(("i'm", "im", "we're"), "is"),
  **dict.fromkeys(("i've", "ive", "we've"), "has"),
  **dict.fromkeys(("i'll", "we'll"), "will"),
  **dict.fromkeys(("i'd", "we'd"), "would"),
}
_IRREGULAR = {
  "am": "is",
  "are": "is",
  "have": "has",
  "do": "does",
  "were": "was",
  "don't": "doesn't",
  "dont": "doesn't",
  "haven't": "hasn't",
  "aren't": "isn't",
  "ain't": "isn't",
  "weren't": "wasn't",
}
_MODALS = frozenset(
  "can could will would shall should may might must cannot can't couldn't "
  "won't wouldn't shouldn't mustn't".split()
)
_PAST = frozenset(
  "was wasn't had hadn't did didn't been became began bought broke brought "
  "built came chose drank drew drove ate fell felt found gave got gotten grew "
  "heard held kept knew led left lost made met outgrew ran sang saw seen known "
  "sold spent stood taught thought told took understood went woke won wore "
  "wrote said".split()
)
_PRESENT_ED = frozenset(
  "need feed exceed proceed succeed speed bleed breed heed seed weed".split()
)
_ADVERBS = frozenset(
  "always often never also still just even sometimes only ever already now "
  "then both rather quite seldom not kinda most much".split()
)
_VERBS_IN_LY = frozenset("rely apply reply fly supply comply imply".split())
# The first are verbs wherever a verb is possible; the second only before a word
# of the third: "love" in "love stories" is a noun.
_PLAIN_VERBS = frozenset(
  "enjoy prefer hate dislike avoid adore collect listen own tend spend "
  "appreciate detest choose".split()
) | set(_IRREGULAR)
_VERBS_OR_NOUNS = frozenset(
  "love like play read watch use buy need want wear drink eat drive cook"
  "".split()
)
_AFTER_VERBS = frozenset(
  "it them to the a an my our with on at in all most many some any every both "
  "only for more him her this these things".split()
)
_COORDINATORS = frozenset(("and", "but", "or"))
# These begin a clause with another subject, or an infinitive.
_ENDS_CLAUSE = frozenset(
  "that which who whom whose what where when while because if since as so he "
  "she they you it to".split()
)
_NUMBERED = frozenset("part volume vol chapter episode type class war".split())
_BEFORE_NOUNS = frozenset(
  "a an the this that these each every my our gold coal salt land user's"
  "".split()
)
_NO_VERBS = (
  _AFTER_VERBS | _COORDINATORS | _ENDS_CLAUSE | _BEFORE_NOUNS | set(_PRONOUNS)
)

_NOUNS = "(?:user|customer|shopper|buyer)"
# With a capital only at the beginning of a sentence, where he is the user too.
_USER = re.compile(
  rf"(?:^|(?<=[.!?] ))(?:(?:The|This) {_NOUNS}|S?[Hh]e|They)\b(?!['’])|"
  rf"\b(?:the|this) {_NOUNS}\b(?!['’])"
)
_OWN = re.compile(
  rf"\b(?:[Tt]he|[Tt]his) {_NOUNS}['’]s\b|\b(?:his|her|their|His|Her|Their)\b"
)
_SUBJECT = re.compile(
  rf"(?P<who>{_USER.pattern}|(?<=, )s?he\b|(?<=and )s?he\b)"
  r"(?P<adverbs>(?: (?:\w+ly|also|often|always|never|still|just|now|then))*)"
  r" (?P<verb>\w+s|\w+(?:n['’]t|ed)|had|are|like|can|could|will|would|may|"
  r"might|should|must)\b(?<! this)(?<! as)"
)
_FIRST_IRREGULAR = {
  "is": "am",
  "are": "am",
  "has": "have",
  "does": "do",
  "doesn't": "don't",
  "isn't": "am not",
  "hasn't": "haven't",
}
_OBJECT = re.compile(r"\b([a-z]+s|for|to|of|with|by|from) $")
# Verbs of a second clause that are hardly nouns.
_COORDINATED = re.compile(
  r"((?:\band|\bbut|\bor|,)(?: (?:\w+ly|also|often|always|never|now|then))* )"
  r"(likes|loves|enjoys|prefers|hates|dislikes|avoids|adores|collects|owns|"
  r"tends|spends|appreciates|chooses|buys|is|has|keeps|seems|goes|looks|values|cares|"
  r"wants|needs|seeks|favou?rs|(?<=and )are|(?:does|is|has)n't)\b"
)


@dataclasses.dataclass
class _Token:
  """A word, quotation, space or sign."""

  text: str
  # A word in lower case with a straight apostrophe; "" for others.
  low: str
  # Whether it is the first word of a sentence.
  first: bool


def third_person(text: str) -> str:
  """Replaces the first person of a text by "the user".

  "I like horror games and my son plays them" becomes "The user likes horror
  games and the user's son plays them". A text without a first person, such
  as an earlier result, is unchanged; so are quotations and apparent parts of
  names, as in World War I and My Little Pony.
  """
  tokens = _tokens(text)
  words = [i for i, token in enumerate(tokens) if token.low]
  said = [token.text for token in tokens]
  in_first_person = False
  for place, i in enumerate(words):
    token = tokens[i]
    if not _is_first_person(tokens, i):
      if token.first or token.low in _ENDS_CLAUSE:
        in_first_person = False
      elif in_first_person and token.low in _COORDINATORS:
        _inflect(tokens, said, words[place + 1 :], coordinated=True)
      continue
    verb = _CONTRACTIONS.get(token.low)
    shifted = "the user" if verb else _PRONOUNS[token.low]
    said[i] = shifted.capitalize() if token.first else shifted
    if verb:
      if verb == "would" and _is_perfect(tokens, words[place + 1 :]):
        verb = "had"
      said[i] += f" {verb}"
      in_first_person = verb not in _MODALS
    elif token.low in _SUBJECTS and not _is_joint(tokens, words[: place + 1]):
      before = words[place - 1] if place else i
      if before == i - 2 and tokens[before].low in _IRREGULAR:
        said[before] = _third(tokens[before])
      else:
        rest = words[place + 1 :]
        in_first_person = _inflect(tokens, said, rest, after=i)
  return "".join(said)


def first_person(text: str) -> str:
  """Replaces "the user" by the first person, as in a query that they type.

  "The user likes horror games, and enjoys them with the user's son" becomes "I
  like horror games, and enjoy them with my son". He or she at the beginning of
  a sentence is the user too. A text that says "I" already is unchanged.
  """

  def subject(match: re.Match[str]) -> str:
    if _OBJECT.search(said[: match.start()]):
      return match[0]
    return f"I{match['adverbs']} {_first(match['verb'])}"

  if not _USER.search(text) or third_person(text) != text:
    return text
  said = _OWN.sub(lambda m: "My" if m[0][0].isupper() else "my", text)
  said = _SUBJECT.sub(subject, said)
  said = _COORDINATED.sub(lambda m: m[1] + _first(m[2]), said)
  return _USER.sub(lambda m: "I" if m[0][0].isupper() else "me", said)


def _first(verb: str) -> str:
  """Returns the form of a verb of the third person that I has."""
  if verb in _FIRST_IRREGULAR:
    return _FIRST_IRREGULAR[verb]
  if verb in _PAST | _MODALS or not re.search(r"[^s]s$", verb):
    return verb
  if re.search(r"[^aeiou]ies$", verb):
    return f"{verb[:-3]}y"
  return re.sub(r"(?<=sh|ch|ss)es$|(?<=[xz])es$|(?<=go|do)es$|s$", "", verb)


def _tokens(text: str) -> list[_Token]:
  tokens, first = [], True
  for found in _TOKEN.findall(text):
    is_word = found[0].isalnum() or found[0] == "_"
    low = found.lower().replace("’", "'") if is_word else ""
    tokens.append(_Token(found, low, first and is_word))
    if found.strip():
      first = found in ".!?" or (first and not is_word)
  return tokens


def _is_first_person(tokens: list[_Token], i: int) -> bool:
  """Whether a word is of the first person, not of a name, numeral or noun."""
  token = tokens[i]
  if token.low in _CONTRACTIONS:
    return True
  if token.low not in _PRONOUNS or token.text == "US":
    return False
  before, after = _neighbour(tokens, i, -2), _neighbour(tokens, i, 2)
  if token.low == "mine" and before and before.low in _BEFORE_NOUNS:
    return False
  if token.first:
    return True
  if token.text == "I":
    numbered = before and (_is_name(before) or before.low in _NUMBERED)
    return not numbered or bool(after and _can_follow(after))
  is_title = token.text.istitle() and (
    (before and _is_name(before)) or (after and _is_name(after))
  )
  return not is_title


def _neighbour(tokens: list[_Token], i: int, step: int) -> _Token | None:
  """Returns the next or previous word if only a space is between."""
  there = i + step
  if 0 <= there < len(tokens) and tokens[i + step // 2].text.isspace():
    return tokens[there] if tokens[there].low else None
  return None


def _is_name(token: _Token) -> bool:
  own = token.low in _PRONOUNS or token.low in _CONTRACTIONS
  return token.text[0].isupper() and not token.first and not own


def _can_follow(token: _Token) -> bool:
  """Whether a word can follow its subject."""
  return (
    token.low in _PLAIN_VERBS | _VERBS_OR_NOUNS | _MODALS
    or _is_past(token.low)
    or _is_adverb(token.low)
  )


def _is_joint(tokens: list[_Token], words: list[int]) -> bool:
  """Whether a subject is the last of several, as in "my son and I"."""
  if len(words) < 4 or tokens[words[-2]].low != "and":
    return False
  begin = tokens[words[-4]]
  before = tokens[words[-4] - 2].low if words[-4] > 1 else ""
  return begin.low in ("my", "our") and (
    begin.first or before in _ENDS_CLAUSE or not before
  )


def _is_perfect(tokens: list[_Token], rest: list[int]) -> bool:
  """Whether the next verb makes "I'd" mean "I had"."""
  for i in rest:
    low = tokens[i].low
    if not _is_adverb(low):
      return _is_past(low) or low == "better"
  return False


def _inflect(
  tokens: list[_Token],
  said: list[str],
  rest: list[int],
  *,
  after: int | None = None,
  coordinated: bool = False,
) -> bool:
  """Inflects the verb after a subject or conjunction, if any.

  Returns whether it is finite: verbs coordinated with it are inflected too.
  """
  previous = after
  for place, i in enumerate(rest):
    token = tokens[i]
    if previous is not None and not all(
      between.text.isspace() for between in tokens[previous + 1 : i]
    ):
      return False
    previous = i
    if _is_adverb(token.low):
      continue
    if token.low in _NO_VERBS:
      return False
    following = tokens[rest[place + 1]].low if place + 1 < len(rest) else ""
    if coordinated and not (
      token.low in _PLAIN_VERBS
      or (
        token.low in _VERBS_OR_NOUNS
        and (following in _AFTER_VERBS or _is_adverb(following))
      )
    ):
      return False
    said[i] = _third(token)
    return token.low not in _MODALS
  return False


def _is_adverb(low: str) -> bool:
  return low in _ADVERBS or (low.endswith("ly") and low not in _VERBS_IN_LY)


def _is_past(low: str) -> bool:
  return low in _PAST or (low.endswith("ed") and low not in _PRESENT_ED)


def _third(verb: _Token) -> str:
  """Returns the form of a verb in the third person singular."""
  low = verb.low
  if low in _IRREGULAR:
    third = _IRREGULAR[low]
    return third.upper() if verb.text.isupper() else third
  if low in _MODALS or _is_past(low):
    return verb.text
  stem, ending = verb.text, "s"
  if re.search(r"[^aeiou]y$", low):
    stem, ending = stem[:-1], "ies"
  elif re.search(r"(s|x|z|ch|sh|o)$", low):
    ending = "es"
  is_loud = verb.text.isupper() and len(low) > 1
  return stem + (ending.upper() if is_loud else ending)
