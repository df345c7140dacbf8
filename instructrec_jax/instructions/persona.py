"""Persona shift: what users say of themselves, said of "the user".

Preferences stand in instructions in the third person, users speak in the
first (the paper's section 2.3.2). English only, by rules: words of the first
person and the verbs that go with them change, quoted titles never do.
"""

import dataclasses
import re

from instructrec_jax.instructions import english

_TOKEN = re.compile(
  r"""
    "[^"]*" | “[^”]*” | «[^»]*»  # Quoted; single quotes only around a title,
    | (?<!\w)'(?=[A-Z])(?:[^'"]|(?<=\w)'(?=\w))*'(?!\w)  # or 'tis one.
    | (?:[A-Za-z]\.){2,}  # A.I.
    | \w+(?:['’-]\w+)* | \s+ | .
  """,
  re.VERBOSE | re.DOTALL,
)


@dataclasses.dataclass
class _Token:
  """A word, quotation, space or sign.

  Attributes:
    text: as it stands.
    low: the word in lower case with a straight apostrophe; "" for others.
    first: whether a sentence begins with it.
  """

  text: str
  low: str
  first: bool


def third_person(text: str) -> str:
  """Returns a text with its first person made "the user".

  "I like horror games and my son plays them" becomes "The user likes horror
  games and the user's son plays them". A text without a first person, such
  as what this returns, stays as it is; so do quotations, and what looks like
  a part of a name, as in World War I and My Little Pony.
  """
  tokens = _tokens(text)
  words = [i for i, token in enumerate(tokens) if token.low]
  said = [token.text for token in tokens]
  in_first_person = False
  for place, i in enumerate(words):
    token = tokens[i]
    if not _is_first_person(tokens, i):
      if token.first or token.low in english.ENDS_CLAUSE:
        in_first_person = False
      elif in_first_person and token.low in english.COORDINATORS:
        _inflect(tokens, said, words[place + 1 :], coordinated=True)
      continue
    verb = english.CONTRACTIONS.get(token.low)
    shifted = "the user" if verb else english.PRONOUNS[token.low]
    said[i] = shifted.capitalize() if token.first else shifted
    if verb:
      if verb == "would" and _is_perfect(tokens, words[place + 1 :]):
        verb = "had"
      said[i] += f" {verb}"
      in_first_person = verb not in english.MODALS
    elif token.low in english.SUBJECTS and not _is_joint(
      tokens, words[: place + 1]
    ):
      before = words[place - 1] if place else i
      if before == i - 2 and tokens[before].low in english.IRREGULAR:
        said[before] = _third(tokens[before])
      else:
        rest = words[place + 1 :]
        in_first_person = _inflect(tokens, said, rest, after=i)
  return "".join(said)


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
  """Whether a word is one, and no part of a name, numeral or noun."""
  token = tokens[i]
  if token.low in english.CONTRACTIONS:
    return True
  if token.low not in english.PRONOUNS or token.text == "US":
    return False
  before, after = _neighbour(tokens, i, -2), _neighbour(tokens, i, 2)
  if token.low == "mine" and before and before.low in english.BEFORE_NOUNS:
    return False
  if token.first:
    return True
  if token.text == "I":
    numbered = before and (_is_name(before) or before.low in english.NUMBERED)
    return not numbered or bool(after and _can_follow(after))
  is_title = token.text.istitle() and (
    (before and _is_name(before)) or (after and _is_name(after))
  )
  return not is_title


def _neighbour(tokens: list[_Token], i: int, step: int) -> _Token | None:
  """Returns the word on the other side of a space."""
  there = i + step
  if 0 <= there < len(tokens) and tokens[i + step // 2].text.isspace():
    return tokens[there] if tokens[there].low else None
  return None


def _is_name(token: _Token) -> bool:
  own = token.low in english.PRONOUNS or token.low in english.CONTRACTIONS
  return token.text[0].isupper() and not token.first and not own


def _can_follow(token: _Token) -> bool:
  """Whether what stands before a word may be its subject."""
  return (
    token.low in english.PLAIN_VERBS | english.VERBS_OR_NOUNS | english.MODALS
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
    begin.first or before in english.ENDS_CLAUSE or not before
  )


def _is_perfect(tokens: list[_Token], rest: list[int]) -> bool:
  """Whether the verb to come makes I'd a had."""
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
  """Inflects the verb that a subject or conjunction is followed by, if any.

  Returns:
    Whether it is finite, so that those joined to it are inflected too.
  """
  previous = after
  for place, i in enumerate(rest):
    token = tokens[i]
    if previous is not None and not _only_spaces(tokens, previous, i):
      return False
    previous = i
    if _is_adverb(token.low):
      continue
    if token.low in english.NO_VERBS:
      return False
    following = tokens[rest[place + 1]].low if place + 1 < len(rest) else ""
    if coordinated and not (
      token.low in english.PLAIN_VERBS
      or (
        token.low in english.VERBS_OR_NOUNS
        and (following in english.AFTER_VERBS or _is_adverb(following))
      )
    ):
      return False
    said[i] = _third(token)
    return token.low not in english.MODALS
  return False


def _only_spaces(tokens: list[_Token], start: int, end: int) -> bool:
  return all(token.text.isspace() for token in tokens[start + 1 : end])


def _is_adverb(low: str) -> bool:
  return low in english.ADVERBS or (
    low.endswith("ly") and low not in english.VERBS_IN_LY
  )


def _is_past(low: str) -> bool:
  return low in english.PAST or (
    low.endswith("ed") and low not in english.PRESENT_ED
  )


def _third(verb: _Token) -> str:
  """Returns the form that goes with "the user"."""
  low = verb.low
  if low in english.IRREGULAR:
    third = english.IRREGULAR[low]
    return third.upper() if verb.text.isupper() else third
  if low in english.MODALS or _is_past(low):
    return verb.text
  stem, ending = verb.text, "s"
  if re.search(r"[^aeiou]y$", low):
    stem, ending = stem[:-1], "ies"
  elif re.search(r"(s|x|z|ch|sh|o)$", low):
    ending = "es"
  is_loud = verb.text.isupper() and len(low) > 1
  return stem + (ending.upper() if is_loud else ending)
