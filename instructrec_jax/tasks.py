"""SeqIO tasks and mixtures: importing this registers them and reads no data.

`seqio_bridge.registration` names those of instructions, to train on, and
`seqio_bridge.ranking_tasks` those of ranking requests, to evaluate on. They
are of the templates of the dataset folder that is set already, by T5X's
--tfds_data_dir or TFDS_DATA_DIR, or else of the package's.

Of several folders, in a module of one's own or in gin:

  from instructrec_jax import tasks
  tasks.add("games", "/data/games")    # instructrec_games_all_v1, ...
  tasks.add("books", "/data/books")
  tasks.mix(["instructrec_games_all_v1", "instructrec_books_all_v1"])
"""

import pathlib
from collections.abc import Mapping, Sequence

from instructrec_jax.data.folder import INSTRUCTIONS_FILE, TEMPLATES_FILE
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import registration
from instructrec_jax.seqio_bridge.ranking_tasks import register_ranking
from instructrec_jax.seqio_bridge.vocabulary import dataset_in_use


def use(dataset: pathlib.Path | str) -> None:
  """Sets the folder that names without a dataset read; has its templates."""
  registration.use_dataset(pathlib.Path(dataset))


def add(name: str, dataset: pathlib.Path | str) -> None:
  """Registers a folder's tasks with its name; see `add_dataset`."""
  path = pathlib.Path(dataset).absolute()
  registration.add_dataset(name, path)
  register_ranking(dataset=path, name=name)


def mix(parts: Sequence[str], datasets: Mapping[str, str] | None = None) -> str:
  """Returns the name of the mixture of several, for gin.

  Args:
    parts: names of mixtures or tasks; one alone is returned as it is.
    datasets: folders to `add` before, by name.
  """
  for name, path in (datasets or {}).items():
    if registration.NAMED.get(name) != pathlib.Path(path).absolute():
      add(name, path)
  return registration.mix(parts)


def _templates() -> list[str]:
  """Returns what `load_templates` takes: the folder's file, if there is one."""
  try:
    folder = dataset_in_use()
  except InputError:
    return []
  is_built = (folder / INSTRUCTIONS_FILE).exists()
  return [str(folder / TEMPLATES_FILE)] if is_built else []


registration.register(load_templates(*_templates()))
register_ranking()
