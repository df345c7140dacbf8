"""Sequences: a purchase after the titles before it, and no other words.

Beside the instructions of the paper's templates, these teach which titles go
together: every training purchase is a target, also a user's first one, after
nothing, from which a model learns how usual each title is by itself
(`Normalisation.CATALOGUE_PRIOR` reads it there).
"""

from collections.abc import Iterator

import numpy as np

from instructrec_jax.data.splits import SPLITS
from instructrec_jax.instructions.aspects import (
  Preference,
  Response,
  TaskForm,
)
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.render import Slots
from instructrec_jax.instructions.rows import Renderer, Row
from instructrec_jax.instructions.scenarios import SEQUENCES
from instructrec_jax.instructions.templates import Template

TASK = f"instructrec_{SEQUENCES}_v1"
(FORM,) = Template(
  name="S01",
  preferences=(Preference.IMPLICIT,),
  task_form=TaskForm.MATCHING,
  response=Response.ITEM,
  text="{history}",
).forms
"""The template of ranking requests: the history's titles alone."""


def count_sequences(material: Material, split: str) -> int:
  """Returns how many rows `sequence_rows` yields."""
  return len(material.purchases(split)[0])


def sequence_rows(
  material: Material,
  renderer: Renderer,
  *,
  split: str,
  seed: int,
  block: slice = slice(None),
) -> Iterator[Row]:
  """Yields the rows of a split: titles before a purchase, and its own.

  Those of training are shuffled. A history that is too long for the renderer's
  budget loses its oldest titles. `block` is which of the rows are wanted.
  """
  users, positions = material.purchases(split)
  order = np.arange(len(users))
  if split == "train":
    rng = np.random.default_rng((seed, len(SPLITS), len(users)))
    order = rng.permutation(order)
  for target in order[block].tolist():
    user, position = int(users[target]), int(positions[target])
    history = material.history(user, position, split=split)
    item = int(material.sequences.user(user)[position])
    yield Row(
      form=SEQUENCES,
      inputs=renderer.text(FORM, Slots(history=history)) if history else "",
      targets=material.titles[item],
      user=user,
      item=item,
    )
