"""Registers tasks and mixtures for a list of templates.

Names carry no dataset but a version. A template with one form is one task,
`instructrec_a01_v1`; one with several has a task for each,
`instructrec_a07_p1_p2_i0_t3_v1`, and a mixture over them by its own name. The
other mixtures are those of `mixtures.mixtures`. Each task weighs as much as it
has rows, so a mixture is a plain shuffle of its tasks' rows. Registering reads
no data.
"""

import pathlib
from collections.abc import Sequence

import seqio

from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.mixtures import mixtures
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.seqio_bridge.location import (
  MANIFEST_FILE,
  TEMPLATES_FILE,
  TFDS_NAME,
)
from instructrec_jax.seqio_bridge.vocabulary import DatasetVocabulary


class InstructionSource(seqio.TfdsDataSource):
  """A form's rows; it has those splits that the dataset in use has rows of.

  A dataset without annotations has no row for most forms. SeqIO passes over
  tasks that lack a split, but fails on a split that TFDS does not know.
  """

  def __init__(self, form: str):
    """Names the splits and looks at no data."""
    self._tfds_splits = {split: f"{form}_{split}" for split in SPLITS}
    super().__init__(
      TFDS_NAME,
      splits=self._tfds_splits,
      # Or SeqIO would try to download it.
      read_only=True,
    )

  @property
  def splits(self) -> Sequence[str]:
    """The splits with rows; SeqIO does not allow there to be none at all."""
    found = tuple(split for split in SPLITS if self.num_input_examples(split))
    return found or ("none",)

  def num_input_examples(self, split: str) -> int:
    """Returns how many rows a split has."""
    name, known = self._tfds_splits.get(split), self.tfds_dataset.info.splits
    return known[name].num_examples if name in known else 0


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
  """Adds a task for each form of a template, and the mixtures over them.

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
    for form in template.forms:
      seqio.TaskRegistry.add(
        form.task_name,
        source=InstructionSource(form.name),
        preprocessors=[
          seqio.preprocessors.tokenize,
          seqio.CacheDatasetPlaceholder(),
          seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features,
      )
  for name, forms in mixtures(templates).items():
    seqio.MixtureRegistry.add(
      name,
      [form.task_name for form in forms],
      default_rate=training_rows,
    )


def training_rows(task: seqio.Task) -> int:
  """A task's rate: how many rows it has to train on.

  As `seqio.mixing_rate_num_examples` without a maximum, but 0 for none.
  """
  return count_rows(task, "train")


def count_rows(task: seqio.Task, split: str) -> int:
  """Returns how many rows a task has in a split."""
  return task.source.num_input_examples(split) or 0
