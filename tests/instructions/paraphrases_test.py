"""A crowd's wordings: varied, true of the item, and held out where they say."""

import collections
import re

import numpy as np
import pytest

from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions import paraphrases as lib
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.render import plain_words
from instructrec_jax.instructions.requests import ScenarioWriter
from instructrec_jax.instructions.rows import (
  Renderer,
  group_families,
  instruction_rows,
)
from instructrec_jax.instructions.scenarios import CROWD, SCENARIOS
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.instructions.utterance import kind_of
from instructrec_jax.records import Item
from instructrec_jax.teacher.annotate import annotate_offline
from instructrec_jax.teacher.annotations import Annotations

DRAWS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("crowd") / "shop"
  folder = prepare(format="synthetic", users=150, out=path, seed=1)
  annotate_offline(path)
  return folder


@pytest.fixture(scope="module")
def crowd(folder) -> Paraphrases:
  return Paraphrases(folder.items)


@pytest.fixture(scope="module")
def said(folder, crowd) -> list[tuple[int, str]]:
  """Items, and what a crowd says of them to train on."""
  items = np.random.default_rng(0).integers(0, len(folder.items), DRAWS)
  return [
    (item, text)
    for number, item in enumerate(items.tolist())
    for text in (
      crowd.search(item, "", number=number),
      crowd.wish(item, number=number),
    )
    if text
  ]


def _plain(text: str) -> str:
  return " ".join(re.findall(r"[a-z']+", text.lower()))


def _texts(name: str) -> list[str]:
  return [
    text
    for groups in lib.wordings()[name].values()
    for texts in groups.values()
    for text in texts
  ]


def test_no_held_out_wording_is_a_training_wording_too():
  # "{it}" and "{one}" are the same word.
  wordings = {
    name: {_plain(text.replace("{one}", "{it}")) for text in _texts(name)}
    for name in lib.wordings()
  }
  assert len(wordings["train"]) > 100 and len(wordings["held_out"]) > 12
  assert not wordings["train"] & wordings["held_out"]
  # Of another kind none would ever be said.
  assert {*lib.wordings()["train"]} == {Query.VAGUE, Query.SPECIFIC}


def test_what_is_said_is_of_the_kind_that_asking_for_it_finds(crowd, folder):
  kinds = collections.Counter()
  for number in range(DRAWS):
    item = number % len(folder.items)
    search = crowd.search(item, "Camping, Tent", number=number)
    kinds["search", kind_of(search)] += 1
    kinds["wish", kind_of(crowd.wish(item, number=number))] += 1
  # A typo may hide what a wish is told by.
  assert kinds["search", Query.SPECIFIC] == DRAWS
  assert kinds["wish", Query.VAGUE] > 0.97 * DRAWS


def test_registers_and_typos_vary(said):
  texts = [text for _, text in said]
  lower = np.mean([text == text.lower() for text in texts])
  assert 0.3 < lower < 0.8
  assert 0.03 < np.mean([text.endswith("?") for text in texts]) < 0.4
  assert 0.05 < np.mean(["I" in text.split()[:1] for text in texts]) < 0.5
  assert 0.05 < np.mean([" not " in f" {text} " for text in texts]) < 0.5
  assert len(set(texts)) > 0.4 * len(texts)
  # A noun has any mark behind it, which therefore means nothing.
  marks = {re.sub(r".*\w", "", text) for text in texts if " " not in text}
  assert {"", "!", "!!", "...", "?", "."} <= marks


def test_wishes_are_of_the_items_kind_and_denials_are_true(said, folder):
  titles = [item.title.lower().split() for item in folder.items]
  words = {word for title in titles for word in title}
  shared = collections.Counter(word for title in titles for word in set(title))
  kinds = {title[1] for title in titles}
  denied, unsaid = 0, 0
  for item, text in said:
    brand, kind, finish = titles[item]
    mentioned = set(re.findall(r"\w+", text.lower())) & words
    unsaid += not mentioned <= {brand, kind, finish} and not re.search(
      r"\b(not|no|nothing|without|except|other than|but|don't)\b|-", text
    )
    for word in mentioned - {brand, kind, finish}:
      denied += 1
      assert word not in kinds and shared[word] >= 3
  assert denied > 200
  # But for a typo in "other than" and the like.
  assert unsaid < 0.002 * len(said)


def test_a_word_of_the_title_is_asked_for_alone(said, folder):
  titles = [item.title.lower().split() for item in folder.items]
  alone = 0
  for item, text in said:
    brand, kind, finish = titles[item]
    words = set(re.findall("[a-z]+", text.lower()))
    if kind[:3] in text.lower() or not words & {brand, finish}:
      continue
    alone += 1
  assert 0.06 < alone / len(said) < 0.2


def test_a_word_of_a_single_title_is_asked_for_in_training_alone():
  shop = [("Tent", f"Alder Tent Green {n}") for n in range(5)]
  shop += [("Tent", "Alder Tent Quetzal")]
  shop += [("Rope", f"Borea Rope {n}") for n in range(6)]
  items = [
    Item(f"i{n}", title, ("Camping", kind))
    for n, (kind, title) in enumerate(shop)
  ]
  crowd = Paraphrases(items)
  query = "Camping, Tent"
  searches = [crowd.search(5, query, number=n).lower() for n in range(1000)]
  alone = [text for text in searches if "quetzal" in text]
  assert 20 < len(alone) < 200 and not any("tent" in text for text in alone)
  held_out = (crowd.held_out(5, query, number=n) for n in range(300))
  assert not any("quetzal" in text.lower() for text in held_out)


def test_names_have_digits_and_letters_of_any_language():
  shop = [("Tent", title) for title in ("Alder SM57 Café", "Größe 2000 5x")]
  shop += [("Rope", f"Borea Rope {n}") for n in range(6)]
  items = [
    Item(f"i{n}", title, ("Camping", kind))
    for n, (kind, title) in enumerate(shop)
  ]
  crowd = Paraphrases(items)
  said = {
    word
    for item in (0, 1)
    for n in range(1000)
    for word in re.findall(r"\w+", crowd.search(item, "", number=n).lower())
  }
  assert {"alder", "sm57", "café", "größe"} <= said
  assert not {"57", "caf", "gr", "2000", "5x"} & said


def test_a_kind_of_product_is_no_name():
  shop = [("Tent", f"Alder Tent Green {n}") for n in range(3)]
  shop += [("Stakes", f"Corvo Tent Stakes {n}") for n in range(3)]
  shop += [("Rope", f"Borea Rope {n}") for n in range(6)]
  items = [
    Item(f"i{n}", title, ("Camping", kind))
    for n, (kind, title) in enumerate(shop)
  ]
  crowd = Paraphrases(items)
  said = {crowd.search(3, "Camping, Stakes", number=n) for n in range(500)}
  # "tent stakes", but not "tent", which asks for tents.
  assert {"corvo", "any corvo", "corvo stuff"} & said
  assert any("tent stake" in text for text in said)
  assert not any(
    re.fullmatch(r"(any |all |something )?tent( stuff)?", text.lower())
    for text in said
  )


def test_training_says_no_held_out_wording(folder, crowd):
  held_out = {
    _plain(
      text.format_map({"it": it, "one": it, "a": a, "many": many, "not": word})
    )
    for text in _texts("held_out")
    for it, a, many in (
      (kind.noun, f"a {kind.noun}", kind.plural)
      for kind in crowd._kinds
      if kind
    )
    for word in ("orange", "green", "grey")
  }
  families = group_families(load_templates("package", "crowd"))
  material = Material(folder)
  queries = collections.Counter()
  for row in instruction_rows(
    material,
    Renderer(count_tokens=lambda text: len(text.split()), budget=1000),
    facts=material.facts("train"),
    families={n: families[n] for n in ("p0_i2_t2", "p0_i1_t2", "p1_i1_t2")},
    paraphrases=crowd,
    seed=0,
  ):
    (query,) = re.findall(r'"([^"]*)"', row.inputs)
    queries[_plain(query)] += 1
  assert len(queries) > 500
  assert not held_out & queries.keys(), held_out & queries.keys()


def test_the_same_seed_says_the_same(crowd):
  assert crowd.wish(3, number=5) == crowd.wish(3, number=5)
  assert len({crowd.wish(3, number=n) for n in range(50)}) > 25


def test_an_item_without_categories_is_searched_for_as_before(folder):
  bare = Paraphrases([*folder.items[:20], folder.items[20].__class__("x", "X")])
  assert bare.search(20, "", number=1) == ""
  assert bare.wish(20, number=1) == ""
  assert bare.held_out(20, "", number=1) == ""


def test_requests_of_a_crowd_are_those_of_all_in_other_words(folder, crowd):
  renderer = Renderer(count_tokens=lambda t: len(t.split()), budget=1000)
  material = Material(folder, annotations=Annotations.load(folder))
  writer = ScenarioWriter(folder, material, renderer, paraphrases=crowd)
  templates = load_templates("package", "crowd")
  families = group_families(templates)
  held_out = group_families(templates, held_out=True)
  own = {s.name: s for s in SCENARIOS}
  trained = {form.name for forms in families.values() for form in forms}
  for scenario in CROWD:
    forms = held_out[scenario.family]
    assert not trained & {form.name for form in forms}
    usual = own[scenario.name.removesuffix("_crowd")]
    _, theirs = writer.requests(scenario, split="test", forms=forms)
    _, ours = writer.requests(
      usual, split="test", forms=families[usual.family][:1]
    )
    instructions = set()
    for one, other in zip(theirs, ours, strict=True):
      assert one.candidates == other.candidates and one.target == other.target
      assert one.history_items == other.history_items
      assert one.instruction != other.instruction
      # What a search by categories says changes; a teacher's words do not.
      assert (one.query == other.query) != ("i2" in scenario.family)
      instructions.add(one.instruction)
    assert len(instructions) > 1


def test_a_crowds_own_wishes_are_shown_and_a_teachers_written(folder):
  words = Paraphrases(folder.items, shows_own_wishes=True)
  annotations = Annotations.load(folder)
  material = Material(folder, annotations=annotations)
  facts = material.facts("train")
  teachers = {text for text in facts.queries[Query.VAGUE] if text}
  assert teachers
  families = group_families(load_templates("package"))
  for name, is_written in (("p0_i1_turn_around", True), ("p1_i1_t2", False)):
    rows = list(
      instruction_rows(
        material,
        Renderer(count_tokens=lambda text: 0, budget=1 << 20),
        facts=facts,
        families={name: families[name]},
        paraphrases=words,
        seed=0,
      )
    )
    assert rows
    if is_written:
      assert {row.targets for row in rows} <= {plain_words(t) for t in teachers}
    else:
      quoted = {row.inputs.split('"')[1] for row in rows}
      # But for a few that both say.
      assert len(quoted & teachers) < 0.05 * len(quoted)
