"""What a crowd would type to find each item, in the words of many.

An I2 lists a target's categories in one careful form; people type "tent",
"need a tent asap" or "a tent, not orange". The wordings are in
`paraphrases.yaml`, those of evaluation apart from those of training.
"""

import collections
import functools
import pathlib
import random
import re
from collections.abc import Mapping, Sequence

import yaml

from instructrec_jax.data.cleaning import category_labels, root_categories
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.utterance import kind_of
from instructrec_jax.records import Item
from instructrec_jax.teacher import kinds

# A word that fewer titles share is a name of its own, which tells the item: it
# is asked for in training, never in evaluation.
_FEWEST_TITLES = 3
# One that more have tells nothing apart.
_LARGEST_SHARE = 0.5
# In any language, and names of models ("sm57"), but no bare numbers.
_WORD = re.compile(r"(?=\d*[^\W\d_])[^\W_]{3,}")
_SLOT = re.compile(r"\{(\w+)\}")
_LITTLE = frozenset(
  "and the for with from not all new set one two our your pack inch of".split()
)
_LOWER, _MARK, _TYPO = 0.4, 0.12, 0.03
# What a text ends with, for want of any meaning.
_MARKS = ("!", "!!", "...", "?", ".")
# Of wordings, those that deny a word, those that have one beside the kind of
# product, and those that have no other.
_DENIES, _HAS_WORD, _IS_NAME = 0.2, 0.2, 0.12
# Of these last, those whose word is in fewer titles, where there is one.
_IS_RARE = 0.5
# How much likelier one is not to want a word for each purchase that had it.
_AGAIN = 2
# Of searches that could be worded, those that stay lists of categories.
_AS_CATEGORIES = 0.25


_Wordings = dict[Query, dict[str, list[str]]]
"""By the kind of query, and by the slot that is told apart, or ""."""


@functools.cache
def wordings() -> dict[str, _Wordings]:
  """Returns the "train" and the "held_out" ones of `paraphrases.yaml`."""
  path = pathlib.Path(__file__).with_name("paraphrases.yaml")
  lists = yaml.safe_load(path.read_text(encoding="utf-8"))
  example = dict.fromkeys(("it", "one"), "tent") | {"a": "a tent"}
  example |= dict.fromkeys(("word", "name"), "green")
  example |= {"many": "tents", "not": "orange"}
  found: dict[str, _Wordings] = {}
  for name, texts in lists.items():
    found[name] = {}
    for text in texts:
      slots = _SLOT.findall(text)
      told = next((s for s in ("not", "word", "name", "one") if s in slots), "")
      if not told and _SLOT.fullmatch(text) and name == "train":
        # Without an article it would be the held-out one of the noun alone.
        told = "one"
      kind = kind_of(text.format_map(example))
      found[name].setdefault(kind, {}).setdefault(told, []).append(text)
  return found


class Paraphrases:
  """The words in which people would ask for a catalogue's items.

  Attributes:
    shows_own_wishes: in place of a teacher's, in whatever is trained on.
  """

  def __init__(self, items: Sequence[Item], *, shows_own_wishes: bool = False):
    """Reads kinds from categories, and what titles share."""
    self.shows_own_wishes = shows_own_wishes
    roots = sorted(root_categories(items))
    self._kinds = [
      kinds.kind_of(kinds.with_roots(own, roots)) if own else None
      for own in category_labels(items)
    ]
    words = [
      self._title_words(number, item) for number, item in enumerate(items)
    ]
    counts = collections.Counter(word for own in words for word in own)
    most = max(_LARGEST_SHARE * len(items), _FEWEST_TITLES)
    self._words = [
      [word for word in own if _FEWEST_TITLES <= counts[word] <= most]
      for own in words
    ]
    self._rare = [
      [word for word in own if counts[word] < _FEWEST_TITLES] for own in words
    ]
    self._nouns = {
      word
      for kind in self._kinds
      if kind
      for word in _WORD.findall(f"{kind.noun} {kind.plural}".lower())
    }
    self._of_kind: Mapping[str, collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )
    for kind, own in zip(self._kinds, self._words, strict=True):
      if kind:
        self._of_kind[kind.noun].update(own)

  def knows(self, item: int) -> bool:
    """Whether the item's categories name a kind of product."""
    return self._kinds[item] is not None

  def search(
    self, item: int, categories: str, *, had: Sequence[int] = (), number: int
  ) -> str:
    """Returns a specific intention (I2) as one of many would type it.

    Args:
      item: that is searched for.
      categories: its I2, which stays as it is once in a while.
      had: the searcher's items: what they are called is likely to be what the
        searcher does not want again.
      number: decides what is said.
    """
    rng = random.Random(number)
    if not self.knows(item) or rng.random() < _AS_CATEGORIES:
      return categories
    return self._say(item, Query.SPECIFIC, rng, had=had)

  def wish(self, item: int, *, had: Sequence[int] = (), number: int) -> str:
    """Returns a vague intention (I1) for an item; "" if it has no kind."""
    if not self.knows(item):
      return ""
    rng = random.Random(number)
    return self._say(item, Query.VAGUE, rng, had=had)

  def held_out(self, item: int, categories: str, *, number: int) -> str:
    """Returns a search for an item in words that no training row has."""
    if not self.knows(item):
      return categories
    said = self._slots(item, random.Random(number))
    fitting = [
      text
      for of_kind in wordings()["held_out"].values()
      for slot, texts in of_kind.items()
      if not slot or slot in said
      for text in texts
    ]
    return random.Random(number).choice(fitting).format_map(said)

  def _title_words(self, number: int, item: Item) -> list[str]:
    kind = self._kinds[number]
    own = (
      set(_WORD.findall(f"{kind.noun} {kind.plural}".lower())) if kind else {}
    )
    found = (word.lower() for word in _WORD.findall(item.title))
    return [
      word
      for word in dict.fromkeys(found)
      if word not in _LITTLE and word not in own
    ]

  def _say(
    self, item: int, kind: Query, rng: random.Random, *, had: Sequence[int]
  ) -> str:
    """Words a query to train on."""
    said = self._slots(item, rng, had)
    rare = self._rare[item]
    if rare and ("name" not in said or rng.random() < _IS_RARE):
      said["name"] = rng.choice(rare)
    groups = wordings()["train"][kind]
    chance = rng.random()
    if "not" in said and chance < _DENIES:
      texts = groups["not"]
    elif "word" in said and chance < _DENIES + _HAS_WORD:
      texts = groups["word"]
    elif "name" in said and chance < _DENIES + _HAS_WORD + _IS_NAME:
      texts = groups["name"]
    else:
      texts = groups[""] + ("one" in said) * groups["one"]
    return _typed(rng.choice(texts).format_map(said), rng)

  def _slots(
    self, item: int, rng: random.Random, had: Sequence[int] = ()
  ) -> dict[str, str]:
    """Returns what there is to say of an item."""
    kind = self._kinds[item]
    assert kind is not None
    said = {"it": kind.noun, "a": kind.noun, "many": kind.plural}
    if kind.number == "count":
      said |= {"a": kinds.with_article(kind.noun), "one": kind.noun}
    elif kind.number == "topic":
      # "something for sewing": bare, as it is typed.
      said["it"] = kind.noun.removeprefix("something for ")
    if self._words[item]:
      said["word"] = rng.choice(self._words[item])
    again = collections.Counter(w for each in had for w in self._words[each])
    others = {
      # What is usual is denied more often than what is rare.
      word: count**2 * (1 + _AGAIN * again[word])
      for word, count in self._of_kind[kind.noun].items()
      if word not in self._words[item]
    }
    if others:
      said["not"] = rng.choices([*others], [*others.values()])[0]
    names = [word for word in self._words[item] if word not in self._nouns]
    if names:
      said["name"] = rng.choice(names)
    return said


def _typed(text: str, rng: random.Random) -> str:
  """Returns a text as somebody in a hurry would type it, now and then."""
  if rng.random() < _LOWER:
    text = text.lower().removesuffix(".")
  if rng.random() < _MARK:
    text = text.rstrip(".!?") + rng.choice(_MARKS)
  if rng.random() < _TYPO:
    words = [m for m in re.finditer(r"[a-z]{5,}", text)]
    if words:
      word = rng.choice(words)
      place = rng.randrange(word.start() + 1, word.end() - 2)
      pair = text[place : place + 2]
      kept = rng.choice((pair[::-1], pair[0]))
      text = text[:place] + kept + text[place + 2 :]
  return text
