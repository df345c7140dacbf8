"""Registers tasks and mixtures for a list of templates.

Names carry a version and no dataset. A template with one form is one task,
`instructrec_a01_v1`; one with several has a task for each,
`instructrec_a07_p1_p2_i0_t3_v1`, and a mixture over them by its own name. The
other mixtures are those of `mixtures.mixtures`. Mixing rates are proportional
to task size. Registering reads no data.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import seqio
import tensorflow as tf

from instructrec_jax.data.folder import INSTRUCTIONS_FILE, TEMPLATES_FILE
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError, check_tree
from instructrec_jax.instructions.mixtures import mixtures
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.seqio_bridge.tfds_writer import SHARDS, TFDS_NAME
from instructrec_jax.seqio_bridge.vocabulary import text_features


class InstructionSource(seqio.TfdsDataSource):
  """A form's rows; its splits are those with rows in the dataset in use.

  A dataset without annotations has no rows for most forms. SeqIO skips tasks
  that lack a split, but fails on a split that TFDS does not know.
  """

  def __init__(self, form: str):
    """Names the splits and reads no data."""
    self._tfds_splits = {split: f"{form}_{split}" for split in SPLITS}
    # Not read-only, SeqIO would try to download it.
    super().__init__(TFDS_NAME, splits=self._tfds_splits, read_only=True)

  @property
  def splits(self) -> Sequence[str]:
    """The splits with rows; SeqIO does not allow there to be none at all."""
    found = tuple(split for split in SPLITS if self.num_input_examples(split))
    return found or ("none",)

  def num_input_examples(self, split: str) -> int:
    """Returns the number of rows of a split."""
    name, known = self._tfds_splits.get(split), self.tfds_dataset.info.splits
    return known[name].num_examples if name in known else 0


def use_dataset(path: pathlib.Path) -> None:
  """Registers a dataset folder's own templates; tasks then read that folder.

  Raises:
    InputError: `instructrec build` has not been run on it.
  """
  path = pathlib.Path(path).absolute()
  if not (path / INSTRUCTIONS_FILE).exists():
    raise InputError(
      f"{path}: holds no instructions; run `instructrec build --dataset "
      f"{path}` first."
    )
  check_tree(path / SHARDS)
  seqio.set_tfds_data_dir_override(str(path))
  # SeqIO caches builders, also that of a folder that has been built again.
  seqio.LazyTfdsLoader._MEMOIZED_BUILDERS.pop((TFDS_NAME, str(path)), None)
  register(load_templates(path / TEMPLATES_FILE))


@contextlib.contextmanager
def told_damage(dataset: pathlib.Path) -> Iterator[None]:
  """Words what TFDS and TensorFlow raise on damaged instructions.

  Raises:
    InputError: naming the shard, or the folder if none is damaged.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    # Of many types: JSON, protocol buffers, TFRecord, files.
    where, reason = pathlib.Path(dataset) / SHARDS, str(error)
    if isinstance(error, OSError) and error.strerror:
      reason = f"{error.filename}: {error.strerror}"
    for shard in sorted(where.glob("*.tfrecord*")):
      try:
        for _ in tf.data.TFRecordDataset(str(shard)):
          pass
      except tf.errors.OpError as damage:
        where, reason = shard, damage.message
        break
    reason = (reason.strip() or type(error).__name__).splitlines()[0]
    raise InputError(
      f"{where}: damaged instructions ({reason:.160}): run `instructrec build "
      f"--dataset {dataset} --force` again."
    ) from error


def register(templates: Sequence[Template]) -> None:
  """Adds a task for each form of a template, and the mixtures over them.

  They replace earlier ones: a SeqIO task that has been read once is bound to
  that dataset folder.
  """
  unregister("instructrec_")
  features = text_features()
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
    tasks = [form.task_name for form in forms]
    seqio.MixtureRegistry.add(name, tasks, default_rate=count_rows)


def unregister(prefix: str) -> None:
  """Removes tasks and mixtures whose names begin with a prefix."""
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    for name in list(registry.names()):
      if name.startswith(prefix):
        registry.remove(name)


def count_rows(task: seqio.Task, split: str = "train") -> int:
  """Returns the number of rows of a task, which is its mixing rate.

  `seqio.mixing_rate_num_examples` without a maximum, but 0 for no rows.
  """
  return task.source.num_input_examples(split) or 0
