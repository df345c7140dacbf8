"""What the search baselines learn from: a dataset folder's own searches."""

import dataclasses

import numpy as np

from instructrec_jax import storage
from instructrec_jax.baselines.searches import Searches
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.material import COLD_ITEMS, Facts, Material
from instructrec_jax.teacher.annotations import Annotations


class SearchMaterial:
  """Finds the searches of a split: what instructions quote as such."""

  def __init__(self, folder: DatasetFolder):
    """Reads what the teacher wrote, and how the folder was built, if it was."""
    self._folder = folder
    manifest = folder.path / "instructions.json"
    cold_items = COLD_ITEMS[0]
    if manifest.exists():
      cold_items = storage.read_json(manifest)["options"]["cold_items"]
    self._material = Material(
      folder, annotations=Annotations.load(folder), cold_items=cold_items
    )

  def personal(self, split: str) -> Searches:
    """Returns the searches of users for their targets.

    By vague and specific intentions, and by preferences in words.
    """
    return _searches(self._material.facts(split))

  def impersonal(self, split: str) -> Searches:
    """Returns the searches for items of the split of the items alone.

    By intentions: a taste tells little of an item to who knows no user. Product
    search is tested on items that no search in training was for
    (paper section 3.1.2).
    """
    facts = self._material.facts(split)
    facts = facts.take(np.flatnonzero(facts.in_item_split))
    facts = dataclasses.replace(facts, preferences=[()] * len(facts.items))
    items = np.flatnonzero(self._folder.item_split == SPLITS.index(split))
    return Searches.concatenate(
      [
        _searches(facts),
        _searches(
          self._material.item_facts(items.astype(np.int32), split=split)
        ),
      ]
    )


def _searches(facts: Facts) -> Searches:
  """Returns one search for each text that a target could be searched by."""
  texts = [
    (*preferences, *asked)
    for preferences, *asked in zip(
      facts.preferences,
      *(
        facts.queries.get(query, [""] * len(facts.items))
        for query in (Query.VAGUE, Query.SPECIFIC)
      ),
      strict=True,
    )
  ]
  rows = np.array(
    [row for row, of_target in enumerate(texts) for text in of_target if text],
    np.int64,
  )
  return Searches(
    users=facts.users[rows],
    positions=facts.positions[rows],
    queries=[text for of_target in texts for text in of_target if text],
    items=facts.items[rows],
  )
