import collections

from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.mixtures import HELD_OUT, mixtures
from instructrec_jax.instructions.templates import load_templates

TEMPLATES = load_templates("package", "pairwise")
FORMS = [form for template in TEMPLATES for form in template.forms]
MIXTURES = mixtures(TEMPLATES)


def _named(name) -> set[str]:
  return {form.name for form in MIXTURES[f"instructrec_{name}_v1"]}


def test_every_form_is_in_its_family_group_strategy_and_all():
  everything = {form.name for form in FORMS}
  assert _named("all") == everything
  for form in FORMS:
    assert form.name in _named(form.family)
    assert form.name in _named(form.template.group.lower())
    assert form.name in _named(form.template.strategy.replace("-", "_"))
  groups = [_named(group) for group in "abcd"]
  assert sum(map(len, groups)) == len(everything)


def test_a_template_with_several_forms_is_a_mixture_of_them():
  tasks = {form.task_name for form in FORMS}
  for template in TEMPLATES:
    name = f"instructrec_{template.name.lower()}_v1"
    # Never both: a name means one thing.
    assert (name in MIXTURES) == (len(template.forms) > 1)
    assert (name in tasks) == (len(template.forms) == 1)
  assert not tasks & MIXTURES.keys()


def test_seen_and_unseen_templates_share_nothing_but_kinds():
  seen, unseen = _named("seen_templates"), _named("unseen_templates")
  assert not seen & unseen
  assert seen | unseen == _named("all")
  held_out = {name[:3] for name in unseen}
  assert {"A12", "A13", "A17", "B09", "C13"} <= held_out
  # Each unseen template's families are seen in other wordings.
  families = collections.defaultdict(set)
  for form in FORMS:
    families[form.family].add(form.name in unseen)
  assert families["p1_i0_t3"] == {True, False}


def test_a_held_out_scenario_is_nowhere_in_its_mixture():
  for scenario in HELD_OUT:
    parts = set(scenario.split("_"))
    for form in MIXTURES[f"instructrec_without_{scenario}_v1"]:
      assert not form.family.startswith(f"{scenario}_t")
      if "i1" in parts:
        shown = set(form.family.replace("i1star", "i1").split("_"))
        assert not (parts <= shown and "p2" not in shown)


def test_the_ladder_climbs_and_never_shows_what_it_is_tested_on():
  rungs = [_named(f"ladder{number}") for number in range(1, 6)]
  for lower, higher in zip(rungs, rungs[1:], strict=False):
    assert lower < higher
  forms = {form.name: form for form in FORMS}
  for number, rung in enumerate(rungs, start=1):
    queries = {forms[name].query for name in rung}
    assert Query.VAGUE not in queries
    assert (Query.VAGUE_STAR in queries) == (number == 5)


def test_no_mixture_is_empty():
  assert all(MIXTURES.values())
