"""Tests for instructrec_jax/instructions/scenarios.py."""

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.scenarios import SCENARIOS, find_scenarios


def test_all_and_names_come_in_the_tables_order():
  assert find_scenarios(["all"]) == list(SCENARIOS)
  named = find_scenarios(["sequential_99", "sequential"])
  assert [s.name for s in named] == ["sequential", "sequential_99"]


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(InputError, match="'sequnetial'.*sequential_99"):
    find_scenarios(["sequnetial"])


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("sequential", {"history"}),
    # Without an intention, the preference is what is asked for.
    ("sequential_p2", {"query"}),
    ("personalised_p2", {"history", "query"}),
    ("sequential_p1_p2", {"history", "preference"}),
    ("product_search_i2", {"query"}),
    ("personalised_p2_i1", {"history", "query", "preference"}),
    ("pointwise", {"history"}),
  ],
)
def test_what_instructions_show(name, shown):
  (scenario,) = find_scenarios([name])
  assert set(scenario.shows) == shown
