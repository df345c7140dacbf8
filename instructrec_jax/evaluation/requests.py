"""Which requests a scenario ranks: one stored list, the same for all rankers.

Requests come as `build` wrote them, rendered anew with another template, or,
for rankers that read no instructions, as bare candidate lists.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from instructrec_jax import parquet, storage
from instructrec_jax.data import held_out as lists
from instructrec_jax.data.folder import (
  BUILT,
  INSTRUCTIONS_FILE,
  TEMPLATES_FILE,
  DatasetFolder,
  requests_file,
)
from instructrec_jax.errors import InputError
from instructrec_jax.instructions import sequences
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.instructions.requests import ScenarioWriter, sample
from instructrec_jax.instructions.rows import Renderer, group_families
from instructrec_jax.instructions.scenarios import (
  SEQUENCES,
  Scenario,
  find_scenarios,
)
from instructrec_jax.instructions.templates import Form, load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import count_requests, read_requests
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.teacher.questions import PREFERENCES
from instructrec_jax.text.vocabulary import Vocabulary

# Whole catalogues are long: the default number of requests that rank them.
CATALOGUE_SAMPLE = 200


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSource:
  """Requests that can be read several times.

  Attributes:
    path: the file that they come from.
    count: number of requests.
    candidates: the most that a request has.
    template: name of the instructions' form; None without instructions.
    read: starts reading from the first.
  """

  path: pathlib.Path
  count: int
  candidates: int
  template: str | None
  read: Callable[[], Iterator[RankingRequest]]


def find_available(
  names: Sequence[str], *, folder: DatasetFolder, split: str, need_text: bool
) -> list[Scenario]:
  """Returns the named scenarios; "all" means those that a folder has.

  Instructions can be missing for want of annotations, categories or a build;
  candidates, because the catalogue was too small.

  Raises:
    InputError: there is no scenario of such a name.
  """
  scenarios = find_scenarios(names, crowd=True)
  if "all" not in names:
    return scenarios
  # If there is none, reading the first one raises the reason.
  return [
    scenario
    for scenario in scenarios
    if _requests_path(scenario, folder, split).exists()
    or (
      not need_text
      and scenario.needs_no_text
      and lists.candidates_path(scenario, folder=folder, split=split).exists()
    )
  ] or scenarios[:1]


def find_requests(
  scenario: Scenario,
  *,
  folder: DatasetFolder,
  split: str,
  need_text: bool,
  limit: int | None = None,
  seed: int = 0,
) -> RequestSource:
  """Returns a scenario's built requests or, failing those, bare candidates.

  `need_text` refuses bare candidates, whose instruction is empty. `limit`
  draws a sample; scenarios over the same users sample the same ones.

  Raises:
    InputError: the requests are needed and absent or, while reading, they
      differ from the folder's candidates.
  """
  path = _requests_path(scenario, folder, split)
  if not path.exists() and _was_written(path, folder):
    raise InputError(
      f"{path}: no such file, though `instructrec build` wrote it: restore it, "
      "or build the folder again (--force)."
    )
  if not path.exists() and (need_text or not scenario.needs_no_text):
    raise InputError(
      f"{path}: no such file; `instructrec build --dataset {folder.path}` "
      f"makes it, where the dataset has what {scenario.label} shows (see "
      "`requests` in its instructions.json)."
    )
  stored = lists.stored_candidates(scenario, folder=folder, split=split)
  limit = limit or default_limit(scenario)
  template = None
  if path.exists():
    template = parquet.metadata(path, remedy="build the folder again").get(
      "template"
    )
    rows = sample(count_requests(path), limit=limit, seed=seed)

    def read() -> Iterator[RankingRequest]:
      wanted = set(rows.tolist())
      picked = (
        request
        for row, request in enumerate(read_requests(path))
        if row in wanted
      )
      return lists.checked(picked, scenario, stored, path)
  else:
    rows = sample(len(stored.keys), limit=limit, seed=seed)
    path = lists.candidates_path(scenario, folder=folder, split=split)

    def read() -> Iterator[RankingRequest]:
      return lists.without_text(
        folder, stored, name=scenario.name, split=split, rows=rows
      )

  return _source(scenario, folder, split, path, len(rows), template, read)


def default_limit(scenario: Scenario) -> int | None:
  """Returns how many requests are ranked by default; None is all."""
  return CATALOGUE_SAMPLE if scenario.candidates == "catalogue" else None


class TemplateForms:
  """Renders a built folder's requests with any form, as its build would."""

  def __init__(self, folder: DatasetFolder, *, seed: int = 0):
    """Reads the folder's templates, vocabulary, annotations and options.

    Raises:
      InputError: the folder was never built.
    """
    manifest = folder.path / INSTRUCTIONS_FILE
    if not manifest.exists():
      raise InputError(
        f"{manifest}: no such file; templates are chosen among those of "
        f"`instructrec build --dataset {folder.path}`."
      )
    options = storage.read_json(manifest, BUILT)["options"]
    # Folders of before do not say.
    self._has_sequences = options.get("sequences", False)
    vocabulary = Vocabulary.load(folder.vocabulary_path)
    self._families = group_families(
      load_templates(folder.path / TEMPLATES_FILE)
    ) | {SEQUENCES: [sequences.FORM]}
    self._folder = folder
    self._seed = seed
    self._writer = ScenarioWriter(
      folder,
      Material(
        folder,
        annotations=Annotations.load(folder),
        cold_items=options["cold_items"],
      ),
      Renderer(
        count_tokens=vocabulary.count_tokens, budget=options["input_length"]
      ),
    )

  def of_scenario(
    self, scenario: Scenario, *, unlisted: bool = False
  ) -> list[Form]:
    """Returns the forms of a scenario's family, by kind of preference.

    The first template was built. With `unlisted`, those follow that show the
    same and do not list the candidates.
    """
    families = [scenario.family]
    if unlisted and scenario.lists_candidates:
      families.append(scenario.unlisted.family)
      if scenario.history_alone and self._has_sequences:
        families.append(SEQUENCES)
    return [
      each
      for family in families
      for form in self._families.get(family, [])
      for each in form.of_each_preference(PREFERENCES)
    ]

  def requests(
    self, scenario: Scenario, *, form: Form, split: str, limit: int | None
  ) -> RequestSource:
    """Returns the requests of `find_requests`, rendered with another form.

    They have the same candidates, and are rendered anew each time they are
    read.

    Raises:
      InputError: the folder was built from other annotations than it has.
    """
    path = _requests_path(scenario, self._folder, split)
    total, _ = self._writer.requests(scenario, split=split, forms=[form])
    if total != count_requests(path):
      raise InputError(
        f"{path}: the annotations have changed since it was built; run "
        "`instructrec build --force` again."
      )
    limit = limit or default_limit(scenario)

    def read() -> Iterator[RankingRequest]:
      return self._writer.requests(
        scenario, split=split, forms=[form], limit=limit, seed=self._seed
      )[1]

    count = min(total, limit or total)
    return _source(scenario, self._folder, split, path, count, form.name, read)


def _source(
  scenario: Scenario,
  folder: DatasetFolder,
  split: str,
  path: pathlib.Path,
  count: int,
  template: str | None,
  read: Callable[[], Iterator[RankingRequest]],
) -> RequestSource:
  if scenario.candidates != "catalogue":
    # Yes and No, or items.
    candidates = 2 if scenario.pointwise else 1 + scenario.negatives
    return RequestSource(path, count, candidates, template, read)
  return RequestSource(
    path,
    count,
    len(folder.items),
    template,
    lambda: lists.with_catalogue(
      read(), folder, display_titles(folder.items), split=split
    ),
  )


def _was_written(path: pathlib.Path, folder: DatasetFolder) -> bool:
  manifest = folder.path / INSTRUCTIONS_FILE
  if not manifest.exists():
    return False
  written = storage.read_json(manifest, BUILT)["requests"].get(path.stem)
  return isinstance(written, dict)


def _requests_path(
  scenario: Scenario, folder: DatasetFolder, split: str
) -> pathlib.Path:
  return folder.path / requests_file(scenario.name, split)
