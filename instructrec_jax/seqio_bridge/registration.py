"""Registers tasks and mixtures for a list of templates.

Names carry a version and, of a folder that is added by a name, that name. A
template with one form is one task, `instructrec_a01_v1`; one with several has
a task for each, `instructrec_a07_p1_p2_i0_t3_v1`, and a mixture over them by
its own name. The other mixtures are those of `mixtures.mixtures`. Mixing rates
are proportional to task size. Registering reads no data.

Tasks without a dataset's name read the folder in use, and there is one at a
time; `instructrec_games_a01_v1` reads what was added as "games", whatever is
in use. Every example carries a number of its folder's build, which SeqIO keeps
in its caches: a cache of another folder, or of an earlier build, is refused.
"""

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import seqio
import tensorflow as tf

from instructrec_jax.data.folder import INSTRUCTIONS_FILE, TEMPLATES_FILE
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError, check_tree
from instructrec_jax.instructions import sequences
from instructrec_jax.instructions.mixtures import mixtures
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.seqio_bridge.tfds_writer import SHARDS, TFDS_NAME
from instructrec_jax.seqio_bridge.vocabulary import (
  NAMED,
  dataset_in_use,
  text_features,
)
from instructrec_jax.storage import sha256_of

# Of an example: the number of its folder's build.
_BUILD = "build"
# What was registered, by the dataset's name.
_REGISTERED: dict[str, tuple[str, ...]] = {}

ALL = "instructrec_all_v1"
# Instructions, and the sequences of `build --sequences` among them.
ALL_AND_SEQUENCES = "instructrec_all_and_sequences_v1"
_PREPROCESSORS = (
  seqio.preprocessors.tokenize,
  seqio.CacheDatasetPlaceholder(),
  seqio.preprocessors.append_eos_after_trim,
)


class InstructionSource(seqio.TfdsDataSource):
  """A form's rows; its splits are those with rows in the dataset in use.

  A dataset without annotations has no rows for most forms. SeqIO skips tasks
  that lack a split, but fails on a split that TFDS does not know.
  """

  def __init__(self, form: str, dataset: pathlib.Path | None = None):
    """Names the splits and reads no data; `dataset` as for `register`."""
    self._tfds_splits = {split: f"{form}_{split}" for split in SPLITS}
    # Not read-only, SeqIO would try to download it.
    super().__init__(TFDS_NAME, splits=self._tfds_splits, read_only=True)
    self._tfds_dataset = _Loader(self._tfds_splits, dataset)

  @property
  def splits(self) -> Sequence[str]:
    """The splits with rows; SeqIO does not allow there to be none at all."""
    found = tuple(split for split in SPLITS if self.num_input_examples(split))
    return found or ("none",)

  def num_input_examples(self, split: str) -> int:
    """Returns the number of rows of a split."""
    name, known = self._tfds_splits.get(split), self.tfds_dataset.info.splits
    return known[name].num_examples if name in known else 0

  def files(self, split: str) -> list[str]:
    """Returns the TFRecord files of a split that has rows."""
    return self.tfds_dataset.info.splits[self._tfds_splits[split]].filepaths


class _Loader(seqio.LazyTfdsLoader):
  """Reads one folder, also where SeqIO's data folder is another."""

  def __init__(self, splits: dict[str, str], dataset: pathlib.Path | None):
    super().__init__(TFDS_NAME, split_map=splits, read_only=True)
    self._dataset = dataset

  @property
  def data_dir(self) -> str:
    """The folder: SeqIO would look for one it knows, and list all of TFDS."""
    folder = self._dataset or dataset_in_use()
    if not (folder / SHARDS).is_dir():
      raise _unbuilt(folder)
    return str(folder)


class InstructionTask(seqio.Task):
  """A task that reads no cache of another dataset."""

  def _get_cached_source(self, split: str, *args: Any, **kwargs: Any) -> Any:
    source = super()._get_cached_source(split, *args, **kwargs)
    stored = source.get_dataset(split=split, shuffle=False).take(1)
    folder = pathlib.Path(self.source.tfds_dataset.data_dir)  # type: ignore
    for example in stored.as_numpy_iterator():
      if example.get(_BUILD) != _build_of(folder):
        raise InputError(
          f"{self.cache_dir}: a cache of another dataset than {folder}, or of "
          "an earlier build of it: cache its tasks into a folder of their own, "
          "or add the dataset by a name (docs/t5x.md)."
        )
    return source


def use_dataset(path: pathlib.Path) -> None:
  """Registers a dataset folder's own templates; tasks then read that folder.

  Raises:
    InputError: `instructrec build` has not been run on it.
  """
  path = _open(path)
  seqio.set_tfds_data_dir_override(str(path))
  register(load_templates(path / TEMPLATES_FILE))


def add_dataset(name: str, path: pathlib.Path) -> None:
  """Adds a folder's own templates as tasks and mixtures that have its name.

  Args:
    name: of lower-case letters, digits and underscores, such as "games":
      `instructrec_games_a01_v1`.
    path: a folder of `build`.

  Raises:
    InputError: the name cannot be, or the folder is not built.
  """
  if not re.fullmatch("[a-z][a-z0-9_]{0,30}", str(name)) or name == "rank":
    raise InputError(
      f"a dataset's name is {name!r}: lower-case letters, digits and "
      "underscores are needed, from a letter on, and not the word rank."
    )
  path = _open(path)
  templates = load_templates(path / TEMPLATES_FILE)
  taken = {f.task_name for t in templates for f in t.forms}
  clashes = {qualified(t, name) for t in taken} & {*seqio.TaskRegistry.names()}
  if clashes - {*_REGISTERED.get(name, ())}:
    raise InputError(f"there is a task {min(clashes)} already: name another.")
  NAMED[name] = path
  register(templates, dataset=path, name=name)


def mix(parts: Sequence[str]) -> str:
  """Registers the mixture of several, of one or more datasets.

  Args:
    parts: names of mixtures or tasks; each gets its share of rows.

  Returns:
    Its name, made of theirs.

  Raises:
    InputError: there is no such part, or their vocabularies differ.
  """
  if isinstance(parts, str) or not parts:
    raise InputError(f"parts are {parts!r}: a list of names is needed.")
  known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
  for part in parts:
    if part not in known:
      raise InputError(f"there is no mixture or task {part!r} to mix.")
  if len(parts) == 1:
    return parts[0]
  words = [re.sub("^instructrec_|_v1$", "", part) for part in parts]
  name = f"instructrec_{'_and_'.join(words)}_v1"
  # Of tasks: SeqIO takes no function for the rate of a mixture in another.
  tasks = dict.fromkeys(
    task
    for part in map(seqio.get_mixture_or_task, parts)
    for task in (part.tasks if isinstance(part, seqio.Mixture) else [part])
  )
  if len({task.output_features["inputs"].vocabulary for task in tasks}) > 1:
    raise InputError(
      f"{' and '.join(parts)} have different vocabularies: build their "
      "datasets with the same --vocab."
    )
  if name not in known:
    seqio.MixtureRegistry.add(name, [*tasks], default_rate=count_rows)
  return name


def _open(path: pathlib.Path) -> pathlib.Path:
  """Returns the absolute path of a built folder that TFDS can read."""
  path = pathlib.Path(path).absolute()
  if not (path / INSTRUCTIONS_FILE).exists():
    raise _unbuilt(path)
  check_tree(path / SHARDS)
  # SeqIO caches builders, also that of a folder that has been built again.
  seqio.LazyTfdsLoader._MEMOIZED_BUILDERS.pop((TFDS_NAME, str(path)), None)
  return path


def _unbuilt(path: pathlib.Path) -> InputError:
  return InputError(
    f"{path}: holds no instructions; run `instructrec build --dataset {path}` "
    "first."
  )


def _build_of(folder: pathlib.Path) -> int:
  """Returns a number of a folder's instructions, of 63 bits."""
  return int(sha256_of(folder / INSTRUCTIONS_FILE)[:16], 16) >> 1


def _mark(
  rows: tf.data.Dataset, *, dataset: pathlib.Path | None
) -> tf.data.Dataset:
  """Adds the number of the build to each example."""
  build = tf.constant(_build_of(dataset or dataset_in_use()), tf.int64)
  return rows.map(lambda row: {**row, _BUILD: build})


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


def register(
  templates: Sequence[Template],
  *,
  dataset: pathlib.Path | None = None,
  name: str = "",
) -> None:
  """Adds a task for each form of a template, and the mixtures over them.

  They replace earlier ones: a SeqIO task that has been read once is bound to
  that dataset folder.

  Args:
    templates: of the folder.
    dataset: the folder; the one in use if None.
    name: of the dataset, in all names.
  """
  names = {
    form.task_name: (form.name, qualified(form.task_name, name))
    for template in templates
    for form in template.forms
  }
  names[sequences.TASK] = (
    sequences.SEQUENCES,
    qualified(sequences.TASK, name),
  )
  mixed = {
    mixture: [form.task_name for form in forms]
    for mixture, forms in mixtures(templates).items()
  }
  mixed[ALL_AND_SEQUENCES] = [*mixed[ALL], sequences.TASK]
  replace(
    name,
    [
      *(task for _, task in names.values()),
      *(qualified(mixture, name) for mixture in mixed),
    ],
  )
  features = text_features(dataset)
  for source, task in names.values():
    seqio.TaskRegistry.add(
      task,
      source=InstructionSource(source, dataset),
      preprocessors=[
        functools.partial(_mark, dataset=dataset),
        *_PREPROCESSORS,
      ],
      output_features=features,
      task_cls=InstructionTask,
    )
  for mixture, tasks in mixed.items():
    seqio.MixtureRegistry.add(
      qualified(mixture, name),
      [names[task][1] for task in tasks],
      default_rate=count_rows,
    )


def qualified(name: str, dataset: str) -> str:
  """Returns a task's or mixture's name with that of a dataset, if any."""
  return f"instructrec_{dataset}_{name[12:]}" if dataset else name


def replace(owner: str, names: Iterable[str]) -> None:
  """Removes what an owner has registered before; it then has these names."""
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    for name in {*registry.names()} & {*_REGISTERED.get(owner, ())}:
      registry.remove(name)
  _REGISTERED[owner] = tuple(names)


def count_rows(task: seqio.Task, split: str = "train") -> int:
  """Returns the number of rows of a task, which is its mixing rate.

  `seqio.mixing_rate_num_examples` without a maximum, but 0 for no rows.
  """
  return task.source.num_input_examples(split) or 0
