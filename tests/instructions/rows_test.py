import collections
import datetime
import itertools
import re

import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions import rows as rows_lib
from instructrec_jax.instructions.aspects import Query, TaskForm
from instructrec_jax.instructions.material import COLD_ITEMS, Material
from instructrec_jax.instructions.requests import ranking_requests
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.teacher.questions import PREFERENCES

TEMPLATES = load_templates("package", "pairwise")
FAMILIES = rows_lib.group_families(TEMPLATES)
FORMS = {form.name: form for forms in FAMILIES.values() for form in forms}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> DatasetFolder:
  path = tmp_path_factory.mktemp("rows") / "shop"
  return prepare(format="synthetic", users=150, out=path, seed=1)


def _marked(folder) -> Annotations:
  """Texts that say whose history or review they were made of."""
  preferences, intentions = {}, {}
  for user in range(len(folder.sequences)):
    length = int(folder.sequences.lengths[user])
    preferences[user] = {
      end: {
        "general": f"The user likes taste-{user}-{end}-a",
        "short_term": f"Pref taste-{user}-{end}-b",
      }
      for end in range(length - 4, length)
      if end > 0
    }
    for position in range(max(0, length - 3), length):
      intentions[user, position] = {
        "user_view": f"I want wish-{user}-{position}",
        "item_view": f"I need wish-{user}-{position}",
      }
  return Annotations(preferences, intentions, {}, {})


def _material(folder, **options) -> Material:
  material = Material(folder, annotations=_marked(folder), **options)
  # Titles that cannot be mistaken for each other.
  material.titles = [f"thing{i:04d}z red" for i in range(len(folder.items))]
  return material


@pytest.fixture(scope="module")
def material(folder) -> Material:
  return _material(folder)


def _renderer(budget=10_000) -> rows_lib.Renderer:
  return rows_lib.Renderer(
    count_tokens=lambda text: len(text.split()), budget=budget
  )


def _rows(material, split="train", **options) -> list[rows_lib.Row]:
  options = {"families": FAMILIES, "seed": 0, **options}
  renderer = options.pop("renderer", None) or _renderer()
  facts = material.facts(split)
  return list(
    rows_lib.instruction_rows(material, renderer, facts=facts, **options)
  )


@pytest.fixture(scope="module")
def rows(material) -> dict[str, list[rows_lib.Row]]:
  return {split: _rows(material, split) for split in SPLITS}


def _things(text: str) -> set[int]:
  return {int(number) for number in re.findall(r"thing(\d{4})z", text)}


def test_every_form_is_used(rows):
  assert {row.form for row in rows["train"]} == set(FORMS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_row_knows_nothing_later_than_its_target(material, rows, split):
  """Neither items, nor a preference made of them, nor another's review."""
  tastes = 0
  for row in rows[split]:
    text = f"{row.inputs} {row.targets}"
    if row.user < 0:
      assert "wish-" not in text and "taste-" not in text
      continue
    sequence = material.sequences.user(row.user).tolist()
    position = sequence.index(row.item)
    assert split != "train" or position < len(sequence) - 2
    # But for negatives: only what is known in the split's phase is left out.
    known = material.known_items[split].user(row.user).tolist()
    later = set(sequence[position + 1 :])
    assert not _things(text) & later & set(known)
    form = FORMS[row.form]
    if form.template.task_form not in rows_lib.NEGATIVES:
      assert not _things(text) & later
    for user, place in re.findall(r"wish-(\d+)-(\d+)", text):
      assert (int(user), int(place)) == (row.user, position)
    for user, end in re.findall(r"taste-(\d+)-(\d+)", text):
      tastes += 1
      assert int(user) == row.user
      # Of the whole history before this very target, and no more.
      assert int(end) == position
  assert tastes


def test_every_kind_of_preference_is_trained_on(rows):
  for name in FAMILIES:
    found = collections.Counter(
      kind
      for row in rows["train"]
      if FORMS[row.form].family == name
      for kind in re.findall(
        r"taste-\d+-\d+-(\w)", f"{row.inputs} {row.targets}"
      )
    )
    assert not found or min(found["a"], found["b"]) > 0.3 * found.total(), name


def test_no_review_serves_two_splits(rows):
  """Neither with the same view nor with one view each."""
  splits_of = collections.defaultdict(set)
  for split, of_split in rows.items():
    for row in of_split:
      for review in re.findall(r"wish-\d+-\d+", f"{row.inputs} {row.targets}"):
        splits_of[review].add(split)
  assert splits_of and all(len(found) == 1 for found in splits_of.values())


def test_searches_without_a_user_keep_to_their_split_of_the_items(folder, rows):
  searched = {
    name
    for name, form in FORMS.items()
    if not form.needs_history
    and not form.needs_preference
    and form.query is not None
  }
  assert {FORMS[name].query for name in searched} == {
    Query.VAGUE,
    Query.VAGUE_STAR,
    Query.SPECIFIC,
  }
  for number, split in enumerate(SPLITS):
    items = [row.item for row in rows[split] if row.form in searched]
    assert items
    assert (folder.item_split[items] == number).all()


def test_strict_training_shows_no_cold_item_at_all(folder):
  material = _material(folder, cold_items="strict")
  cold = set(np.flatnonzero(folder.item_split != 0).tolist())
  rows = _rows(material)
  assert {row.form for row in rows} == set(FORMS)
  sequences = folder.sequences
  for row in rows:
    text = f"{row.inputs} {row.targets}"
    assert not _things(text) & cold
    for user, end in re.findall(r"taste-(\d+)-(\d+)", text):
      assert not set(sequences.user(int(user))[: int(end)].tolist()) & cold
  paper = _rows(_material(folder))
  assert any(_things(row.inputs) & cold for row in paper)


def test_no_cold_items_train_searches_for_every_item(folder):
  def searched(**options):
    rows = _rows(_material(folder, **options))
    return {row.item for row in rows if FORMS[row.form].query and row.user < 0}

  everything = set(range(len(folder.item_split)))
  assert searched() == set(np.flatnonzero(folder.item_split == 0).tolist())
  assert searched(cold_items="none") == everything
  # Validation and test are asked as ever.
  for split in ("validation", "test"):
    found = [_rows(_material(folder, cold_items=c), split) for c in COLD_ITEMS]
    assert found[0] == found[2]


def test_history_is_all_before_the_target_in_order(material, rows, read_back):
  for row in rows["train"]:
    form = FORMS[row.form]
    if "history" not in form.slots or "query" in form.slots:
      continue
    sequence = material.sequences.user(row.user).tolist()
    shown = read_back(form, row.inputs)["history"]
    history = sequence[: sequence.index(row.item)]
    assert [int(title[5:9]) for title in shown] == history


def test_one_row_for_each_usable_target_and_family(material):
  made = _rows(material)
  counts = collections.Counter(
    (row.user, row.item, FORMS[row.form].family) for row in made
  )
  assert set(counts.values()) == {1}
  found = collections.Counter(FORMS[row.form].family for row in made)
  # All prefixes, but only the annotated targets where words are needed.
  for name, forms in FAMILIES.items():
    usable = int(rows_lib.usable_targets(material, "train", forms).sum())
    # Two users with the same history would be told the same.
    assert 0.9 * usable <= found[name] <= usable, name
  assert 0 < found["p1_i1_t3"] < found["p1_i0_t3"]


def test_a_search_by_categories_is_of_an_item_and_of_nobody(folder, material):
  """The paper splits items and their queries: one row an item."""
  searches = ("p0_i2_t2", "p0_i2_t3", "p0_i2_turn_around")
  few = {name: FAMILIES[name] for name in searches}
  for number, split in enumerate(SPLITS):
    made = _rows(material, split, families=few)
    own = np.flatnonzero(folder.item_split == number).tolist()
    for name in searches:
      rows = [row for row in made if FORMS[row.form].family == name]
      assert sorted(row.item for row in rows) == own
      assert {row.user for row in rows} == {-1}


def test_no_training_row_is_there_twice(material):
  made = _rows(material, rows_per_target=3)
  texts = [(row.form, row.inputs, row.targets) for row in made]
  assert len(set(texts)) == len(texts)
  assert len(made) > 2 * len(_rows(material))


def test_candidates_are_the_target_and_foreign_items(material, rows):
  slots = []
  for row in rows["train"]:
    template = FORMS[row.form].template
    if template.task_form not in (TaskForm.RERANKING, TaskForm.PAIRWISE):
      continue
    own = {row.item}
    if row.user >= 0:
      own |= set(material.known_items["train"].user(row.user).tolist())
    foreign = _things(row.inputs) - own
    negatives = rows_lib.NEGATIVES[template.task_form]
    assert len(foreign) == negatives
    listed = [int(n) for n in re.findall(r"thing(\d{4})z", row.inputs)]
    candidates = [i for i in listed if i in foreign or i == row.item]
    assert sorted(candidates) == sorted({*foreign, row.item})
    assert row.targets == material.titles[row.item]
    if template.task_form == TaskForm.RERANKING:
      slots.append(candidates.index(row.item))
  counts = np.bincount(slots, minlength=10)
  # Each of ten slots a tenth, within five standard deviations.
  tenth = len(slots) / 10
  assert np.abs(counts - tenth).max() < 5 * np.sqrt(0.9 * tenth)


def test_a_share_of_lists_lacks_the_target(material, rows):
  made = _rows(material, unlisted=0.7)
  slots, lacking = [], 0
  for row in made:
    template = FORMS[row.form].template
    if template.task_form != TaskForm.RERANKING:
      continue
    known = material.known_items["train"]
    own = {*known.user(row.user).tolist()} if row.user >= 0 else set()
    listed = [int(n) for n in re.findall(r"thing(\d{4})z", row.inputs)]
    listed = [i for i in listed if i not in own or i == row.item]
    assert len(set(listed)) == len(listed) == 10
    assert row.targets == material.titles[row.item]
    if row.item in listed:
      slots.append(listed.index(row.item))
    else:
      lacking += 1
  total = len(slots) + lacking
  assert abs(lacking - 0.7 * total) < 5 * np.sqrt(0.21 * total)
  tenth = len(slots) / 10
  counts = np.bincount(slots, minlength=10)
  assert np.abs(counts - tenth).max() < 5 * np.sqrt(0.9 * tenth)
  # Others have no list, and a test has its target in each.
  for split in ("validation", "test"):
    assert _rows(material, split, unlisted=0.7) == rows[split]
  is_list = {
    name: any(f.template.task_form == TaskForm.RERANKING for f in forms)
    for name, forms in FAMILIES.items()
  }
  apart = [
    [row for row in found if not is_list[FORMS[row.form].family]]
    for found in (made, rows["train"])
  ]
  assert apart[0] == apart[1]


def test_negatives_do_not_tell_what_is_held_out(material, rows):
  """Of a training row, what the user bought later is as likely as the rest."""
  found, expected = 0, 0.0
  for row in rows["train"]:
    template = FORMS[row.form].template
    if template.task_form != TaskForm.RERANKING or row.user < 0:
      continue
    known = set(material.known_items["train"].user(row.user).tolist())
    held_out = set(material.sequences.user(row.user)[-2:].tolist()) - known
    negatives = _things(row.inputs) - known
    assert len(negatives) == 9
    found += len(negatives & held_out)
    expected += 9 * len(held_out) / (len(material.titles) - len(known))
  assert abs(found - expected) < 5 * np.sqrt(expected)


def test_pointwise_asks_for_the_target_or_a_foreign_item(material, rows):
  answers = []
  for row in rows["train"]:
    if FORMS[row.form].template.task_form != TaskForm.POINTWISE:
      continue
    own = set(material.known_items["train"].user(row.user).tolist())
    foreign = _things(row.inputs) - own
    assert len(foreign) == (row.targets == "No")
    assert (row.item in _things(row.inputs)) == (row.targets == "Yes")
    answers.append(row.targets == "Yes")
  deviation = 0.5 / np.sqrt(len(answers))
  assert abs(np.mean(answers) - 0.5) < 5 * deviation


def test_rows_depend_on_the_seed_and_their_own_family_alone(material, rows):
  assert _rows(material) == rows["train"]
  assert _rows(material, seed=1) != rows["train"]
  names = {"p1_i1_t3", "p1_i0_t2"}
  few = {name: forms for name, forms in FAMILIES.items() if name in names}
  assert _rows(material, families=few) == [
    row for row in rows["train"] if FORMS[row.form].family in few
  ]


def test_training_rows_are_well_mixed(material, rows):
  one = [r.user for r in rows["train"] if FORMS[r.form].family == "p1_i0_t2"]
  changes = sum(a != b for a, b in itertools.pairwise(one))
  # Sorted by user there would be one change a user.
  assert changes > 0.9 * len(one)


def _requests(material, form, stored):
  facts = material.facts("test")
  return ranking_requests(
    material,
    _renderer(),
    forms=[form],
    facts=facts,
    rows=np.arange(len(facts.items)),
    candidates=stored.candidates,
    slots=stored.target,
    name="test",
  )


def test_stored_candidates_are_used_as_they_are(folder, material, read_back):
  (form,) = (f for f in FAMILIES["p1_i0_t3"] if f.template.name == "A07")
  stored = folder.candidates("test", 9)
  made = _rows(
    material, "test", families={form.family: [form]}, candidates=stored
  )
  requests = _requests(material, form, stored)
  titles = material.titles
  for row, request, items in zip(
    made, requests, stored.candidates.tolist(), strict=True
  ):
    shown = read_back(form, row.inputs)["candidates"]
    assert shown == [titles[item] for item in items]
    assert request.instruction == row.inputs
    assert list(request.candidate_items) == items
    assert request.candidates == tuple(shown)
    assert request.target is not None
    assert request.candidates[request.target] == row.targets
    history = material.sequences.user(row.user)[:-1].tolist()
    assert list(request.history_items) == history


@pytest.mark.parametrize("split", SPLITS)
def test_a_preference_that_is_typed_in_says_i(material, rows, split):
  """The paper's users are told of; nobody types "The user likes" of oneself."""
  quoted = 0
  for row in rows[split]:
    form = FORMS[row.form]
    if form.query != Query.PREFERENCE:
      assert "I like taste-" not in row.inputs
      continue
    quoted += "I like taste-" in row.inputs
    assert "The user likes taste-" not in row.inputs
  assert quoted


def test_requests_ask_by_every_kind_of_preference(folder, material):
  """In turn, or in a form of each kind by that alone."""
  stored = folder.candidates("test", 9)

  def kinds_of(form):
    return collections.Counter(
      re.findall(r"taste-\d+-\d+-(\w)", request.instruction)[0]
      for request in _requests(material, form, stored)
    )

  for family in ("p1_p2_i0_t3", "p0_p2_t3"):
    anyone, *of_kind = FAMILIES[family][0].of_each_preference(PREFERENCES)
    found = kinds_of(anyone)
    assert found.keys() == {"a", "b"}
    assert min(found.values()) > 0.4 * found.total()
    # What is not known of a user is told by what is.
    told = {"general": {"a"}, "long_term": {"a"}, "short_term": {"b"}}
    assert {form.preference_kind: {*kinds_of(form)} for form in of_kind} == told


def test_pointwise_requests_ask_yes_or_no(folder, material):
  (form, *_) = FAMILIES["p1_i0_t0"]
  stored, facts = folder.candidates("test", 9), material.facts("test")
  answers = []
  for row, request in enumerate(_requests(material, form, stored)):
    assert request.candidates == ("Yes", "No")
    asked = request.candidate_items[0]
    assert (asked == facts.items[row]) == (request.target == 0)
    assert asked in stored.candidates[row]
    assert material.titles[asked] in request.instruction
    answers.append(request.target)
  assert 0.3 < np.mean(answers) < 0.7


def test_a_context_is_the_month_of_the_target(folder, tmp_path):
  path = tmp_path / "mine.yaml"
  path.write_text(
    "- {name: Z01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had: {history}.[[ It is {context}.]] What now?'}"
  )
  families = rows_lib.group_families(load_templates(path))
  times = folder.interactions["timestamp"].to_numpy()
  for row in _rows(_material(folder), families=families)[:50]:
    sequence = folder.sequences.user(row.user).tolist()
    place = folder.sequences.offsets[row.user] + sequence.index(row.item)
    (month,) = re.findall(r"It is (\w+ \d{4})\.", row.inputs)
    moment = datetime.datetime.fromtimestamp(int(times[place]), datetime.UTC)
    assert month == moment.strftime("%B %Y")


@pytest.mark.parametrize(
  ("time", "said"),
  [
    (5, None),
    (631_152_000, "January 1990"),
    (253_402_300_799, "December 9999"),
    (253_402_300_800, None),
    (1_588_687_728_923, None),
  ],
)
def test_what_is_no_time_in_seconds_is_no_context(
  folder, monkeypatch, time, said
):
  times = np.full(len(folder.sequences.items), time)
  monkeypatch.setattr(DatasetFolder, "timestamps", times)
  assert Material(folder).context(0, 0) == said


def test_no_review_is_read(folder, monkeypatch):
  monkeypatch.delattr(DatasetFolder, "interactions")
  assert _rows(_material(DatasetFolder.open(folder.path)))


def test_cuts_are_counted(material):
  renderer = _renderer(budget=24)
  few = {"p1_i0_t2": [FORMS["A01"]]}
  made = _rows(material, families=few, renderer=renderer)
  words = [len(row.inputs.split()) + 1 for row in made]
  assert max(words) <= 24
  cuts = renderer.cuts
  assert cuts.rows == len(made)
  assert 0 < cuts.rows_with_dropped_items < len(made)
  assert cuts.items_dropped > cuts.rows_with_dropped_items
  assert cuts.rows_over_budget == 0


def test_without_annotations_only_rows_that_need_none(folder):
  forms = {FORMS[row.form] for row in _rows(Material(folder))}
  assert forms
  assert not any(form.needs_preference for form in forms)
  assert {form.query for form in forms} == {None, Query.SPECIFIC}
