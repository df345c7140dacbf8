"""What is chosen on validation: a template's form, a normalisation.

The paper tests each scenario with the instruction that does best on validation
(section 3.1.2).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import protocol
from instructrec_jax.evaluation.blocks import first_metric
from instructrec_jax.evaluation.normalised import (
  NormalisingRanker,
  SharedScores,
)
from instructrec_jax.evaluation.scenario_requests import ScenarioWriter
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.rows import Renderer, group_families
from instructrec_jax.instructions.templates import Form, load_templates
from instructrec_jax.records import Ranker
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary

# Validation requests that decide, unless a limit says otherwise.
SAMPLE = 500


class Wording:
  """Words a built folder's requests with any form, as its build would."""

  def __init__(self, folder: DatasetFolder, *, seed: int = 0):
    """Reads the folder's templates, vocabulary, annotations and options.

    Args:
      folder: of `build`.
      seed: of samples.

    Raises:
      InputError: the folder was never built.
    """
    manifest = folder.path / "instructions.json"
    if not manifest.exists():
      raise InputError(
        f"{manifest}: no such file; templates are chosen among those of "
        f"`instructrec build --dataset {folder.path}`."
      )
    options = storage.read_json(manifest)["options"]
    vocabulary = Vocabulary.load(folder.vocabulary_path)
    self._families = group_families(
      load_templates(folder.path / "templates.yaml")
    )
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

  def forms(self, scenario: Scenario) -> list[Form]:
    """Returns the forms of a scenario's family; the first one was built."""
    return self._families.get(scenario.family, [])

  def requests(
    self, scenario: Scenario, *, form: Form, split: str, limit: int | None
  ) -> protocol.RequestSource:
    """Returns a scenario's requests; see `protocol.worded_requests`."""
    return protocol.worded_requests(
      scenario,
      folder=self._folder,
      writer=self._writer,
      form=form,
      split=split,
      limit=limit,
      seed=self._seed,
    )


@dataclasses.dataclass(frozen=True)
class TemplateChoice:
  """How a scenario's forms did on validation.

  Attributes:
    scenario: which one.
    forms: of its family.
    validation: each form's first metric there.
    requests: how many decided.
  """

  scenario: Scenario
  forms: Sequence[Form]
  validation: Sequence[float]
  requests: int

  @property
  def best(self) -> Form:
    """The best form; of equally good ones, the first."""
    return self.forms[int(np.argmax(self.validation))]


def choose_template(
  scenario: Scenario, ranker: Ranker, *, wording: Wording, limit: int | None
) -> TemplateChoice:
  """Lets a model rank validation requests in the words of each form.

  Args:
    scenario: whose family's forms.
    ranker: the model.
    wording: of the dataset.
    limit: how many requests, drawn at random; `SAMPLE` if None.

  Raises:
    InputError: the folder was built from other annotations or templates.
  """
  forms = wording.forms(scenario)
  sources = [
    wording.requests(
      scenario,
      form=form,
      split="validation",
      limit=sample_size(scenario, limit),
    )
    for form in forms
  ]
  values = [
    first_metric(scenario, source, ranker, label=form.name)
    for form, source in zip(forms, sources, strict=True)
  ]
  return TemplateChoice(scenario, forms, values, sources[0].count)


def template_report(
  choice: TemplateChoice,
  ranker: Ranker,
  *,
  wording: Wording,
  split: str,
  limit: int | None,
  of_best: float,
) -> dict[str, Any]:
  """Returns every form's figures; the unchosen ones are ranked for them.

  Args:
    choice: of `choose_template`.
    ranker: the model.
    wording: of the dataset.
    split: that the table is of.
    limit: as the table's, whose requests these are too.
    of_best: the chosen form's figure in the table.

  Returns:
    "scenario", "metric", "chosen", "validation_requests", "forms" with each
    one's "form", "validation" and "test" (of `split`), and "validation" and
    "test" with their "mean" and "sd" over the forms.
  """
  scenario = choice.scenario
  test = [
    of_best
    if form == choice.best
    else first_metric(
      scenario,
      wording.requests(scenario, form=form, split=split, limit=limit),
      ranker,
      label=form.name,
    )
    for form in choice.forms
  ]
  return {
    "scenario": scenario.name,
    "metric": scenario.metrics[0],
    "chosen": choice.best.name,
    "validation_requests": choice.requests,
    "forms": [
      {"form": form.name, "validation": on_validation, "test": on_test}
      for form, on_validation, on_test in zip(
        choice.forms, choice.validation, test, strict=True
      )
    ],
    "validation": _spread(choice.validation),
    "test": _spread(test),
  }


def choose_normalisation(
  scenario: Scenario,
  model: NormalisingRanker,
  *,
  wrap: Callable[[Ranker], Ranker],
  source: protocol.RequestSource,
) -> dict[str, Any]:
  """Ranks validation requests under every normalisation, scored once.

  Args:
    scenario: that is ranked.
    model: whose scores.
    wrap: makes a ranker permute, or play tournaments, as in the table.
    source: validation requests.

  Returns:
    "scenario", "metric", "chosen" (of equally good ones the first, so the sum
    before all), "validation_requests" and "validation", by normalisation.
  """
  shared = SharedScores(model, tuple(Normalisation))
  values = {
    str(name): first_metric(
      scenario, source, wrap(shared.ranker(name)), label=name
    )
    for name in Normalisation
  }
  return {
    "scenario": scenario.name,
    "metric": scenario.metrics[0],
    "chosen": max(values, key=lambda name: values[name]),
    "validation_requests": source.count,
    "validation": values,
  }


def sample_size(scenario: Scenario, limit: int | None) -> int:
  """Returns how many validation requests decide, at most."""
  return limit or protocol.default_limit(scenario) or SAMPLE


def _spread(values: Sequence[float]) -> Mapping[str, float]:
  sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
  return {"mean": float(np.mean(values)), "sd": float(sd)}
