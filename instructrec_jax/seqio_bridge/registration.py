"""Registers tasks and mixtures for a list of templates.

Names carry no dataset but a version: task `instructrec_a07_v1`; mixtures
`instructrec_p1_i0_t3_v1` of a family, `instructrec_a_v1` of an appendix group,
`instructrec_all_v1` of all. Each task weighs as much as it has rows, so a
mixture is a plain shuffle of its tasks' rows. Registering reads no data.
"""

import math
import pathlib
from collections.abc import Sequence

import seqio

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.rows import SPLITS, families
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.seqio_bridge.location import (
  MANIFEST_FILE,
  TEMPLATES_FILE,
  TFDS_NAME,
)
from instructrec_jax.seqio_bridge.vocabulary import DatasetVocabulary


def use_dataset(path: pathlib.Path) -> None:
  """Registers a dataset folder's own templates, and reads all of them there.

  Raises:
    InputError: `instructrec build` has not been run on it.
  """
  path = pathlib.Path(path).absolute()
  if not (path / MANIFEST_FILE).exists():
    raise InputError(
      f"{path}: holds no instructions; run `instructrec build --dataset "
      f"{path}` first."
    )
  seqio.set_tfds_data_dir_override(str(path))
  # SeqIO keeps what it has once read, also of a folder that is built again.
  seqio.LazyTfdsLoader._MEMOIZED_BUILDERS.pop((TFDS_NAME, str(path)), None)
  register(load_templates(path / TEMPLATES_FILE))


def register(templates: Sequence[Template]) -> None:
  """Adds a task for each template, and the mixtures over them.

  They replace what was registered before: a SeqIO task that has once been read
  stays with that dataset folder.
  """
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    for name in list(registry.names()):
      if name.startswith("instructrec_"):
        registry.remove(name)
  vocabulary = DatasetVocabulary()
  features = {
    name: seqio.Feature(vocabulary=vocabulary, add_eos=True)
    for name in ("inputs", "targets")
  }
  for template in templates:
    seqio.TaskRegistry.add(
      template.task_name,
      source=seqio.TfdsDataSource(
        TFDS_NAME,
        splits={split: f"{template.name}_{split}" for split in SPLITS},
        # Or SeqIO would try to download it.
        read_only=True,
      ),  # pyright: ignore[reportArgumentType] SeqIO's own types disagree
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=features,
    )
  for name, members in _mixtures(templates).items():
    seqio.MixtureRegistry.add(
      name,
      [template.task_name for template in members],
      default_rate=training_rows,
    )


def training_rows(task: seqio.Task) -> int:
  """A task's rate, as `seqio.mixing_rate_num_examples` without its warning."""
  return count_rows(task, "train")


def count_rows(task: seqio.Task, split: str) -> int:
  """Returns how many rows a task has in a split."""
  rows = task.num_input_examples(split)
  # TFDS knows no split without rows, and SeqIO calls that infinite.
  return int(rows) if rows and math.isfinite(rows) else 0


def _mixtures(templates: Sequence[Template]) -> dict[str, list[Template]]:
  groups = {
    f"instructrec_{family}_v1": members
    for family, members in families(templates).items()
  }
  for letter in sorted({template.name[0] for template in templates}):
    groups[f"instructrec_{letter.lower()}_v1"] = [
      template for template in templates if template.name[0] == letter
    ]
  groups["instructrec_all_v1"] = list(templates)
  return groups
