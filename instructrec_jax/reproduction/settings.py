"""What a reproduction is asked for."""

import dataclasses
import pathlib

from instructrec_jax import storage
from instructrec_jax.data.folder import (
  BUILT,
  INSTRUCTIONS_FILE,
  VOCABULARY_FILE,
  DatasetFolder,
)
from instructrec_jax.errors import InputError, check_counts, check_seed
from instructrec_jax.evaluation.rankers import TRAINED, find_rankers
from instructrec_jax.gin_files import search_path
from instructrec_jax.reproduction.experiments import (
  Experiment,
  find_experiments,
)
from instructrec_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Settings:
  """The options of `instructrec reproduce`.

  Attributes:
    dataset: a folder of `prepare`; what it lacks is made there.
    out: where everything else goes.
    recipe: a gin file that binds a model and how it is trained.
    steps: of the main model; the recipe's if None.
    ladder_steps: of each model of Figure 3's ladder.
    limit: requests of each scenario; all if None.
    select_templates: whether each scenario is worded as is best for the model
      on validation (paper section 3.1.2), or as it was built.
    rankers: names from `evaluation.rankers.RANKERS`; empty: all that are
      available, those that are trained among them.
    unseen: a dataset folder of another domain, for Table 11.
    zero_shot: folder of a model that was not tuned, for a row of its own.
    chat: options of `evaluate` that name a chat model, in GPT-3.5's place, and
      how many requests it is asked.
    chat_caps: options of what it may cost, in each of the dataset folders.
    vocabulary: SentencePiece model to build with; one is trained if None and
      the folder has none.
    seed: of everything that is random.
  """

  dataset: pathlib.Path
  out: pathlib.Path
  recipe: pathlib.Path
  steps: int | None = None
  ladder_steps: int = 200
  limit: int | None = 300
  select_templates: bool = True
  rankers: tuple[str, ...] = ()
  unseen: pathlib.Path | None = None
  zero_shot: pathlib.Path | None = None
  chat: tuple[str, ...] = ()
  chat_caps: tuple[str, ...] = ()
  vocabulary: pathlib.Path | None = None
  seed: int = 0

  def check(self) -> None:
    """Raises InputError if something is wrong, before anything is started."""
    folder = DatasetFolder.open(self.dataset)
    if self.unseen:
      DatasetFolder.open(self.unseen)
      if self.unseen.samefile(self.dataset):
        raise InputError(
          f"unseen is {self.unseen}, the dataset itself: name one of another "
          "domain."
        )
    for path in (self.recipe, self.vocabulary):
      if path and not path.is_file():
        raise InputError(f"{path}: no such file.")
    for name in ("steps", "ladder_steps", "limit"):
      value = getattr(self, name)
      if value is not None:
        check_counts(**{name: value})
    check_seed(self.seed)
    self._check_vocabulary()
    # Names alone; the model is still to be trained.
    find_rankers(
      self.ranker_names,
      folder=folder,
      model=self.dataset,
      zero_shot=self.zero_shot,
    )
    if self.zero_shot:
      # Only here is jax needed.
      from instructrec_jax.checkpoints.model_folder import load_config

      load_config(self.zero_shot)

  def _check_vocabulary(self) -> None:
    built = self.dataset / INSTRUCTIONS_FILE
    if self.vocabulary is None:
      return
    wanted = Vocabulary.load(self.vocabulary).sha256
    if not built.exists():
      return
    if storage.read_json(built, BUILT)["vocabulary_sha256"] != wanted:
      raise InputError(
        f"{self.dataset} was built with another vocabulary than "
        f"{self.vocabulary}: build it again (`instructrec build --force "
        f"--vocab {self.vocabulary} --matcher two_tower`), or name a folder "
        "that is not built."
      )

  @property
  def ranker_names(self) -> tuple[str, ...]:
    """The value of `evaluate --rankers`."""
    return self.rankers or ("all", *TRAINED)

  @property
  def all_names(self) -> tuple[str, ...]:
    """The rankers, and the chat model if one is asked."""
    return (*self.ranker_names, *(["chat"] if self.chat else []))

  @property
  def experiments(self) -> list[Experiment]:
    """The tables; the dataset folder must be built."""
    return find_experiments(self.dataset, self.all_names)

  @property
  def model(self) -> pathlib.Path:
    """Where the main model goes."""
    return self.out / "model"


def default_recipe(
  dataset: pathlib.Path, vocabulary: pathlib.Path | None = None
) -> pathlib.Path:
  """Returns the gin file that a model of random weights learns most by.

  `shop_mini.gin` needs titles that are pieces, as in the vocabulary that is
  trained if there is none; `mini.gin` takes any.

  Args:
    dataset: a folder of `prepare`, built or not.
    vocabulary: what it is to be built with, if not a vocabulary of its own.
  """
  own = dataset / VOCABULARY_FILE
  path = vocabulary or (own if own.exists() else None)
  has_titles = path is None or Vocabulary.load(path).is_phrase_V.any()
  name = "shop_mini.gin" if has_titles else "mini.gin"
  return search_path() / "gin" / "experiment" / name
