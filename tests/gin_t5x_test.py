"""gin/t5x without T5X: the files parse, and what they name of ours exists."""

import dataclasses
import importlib
import inspect
import pathlib
import re
from typing import Any

import pytest
from gin import config_parser

from instructrec_jax.instructions.mixtures import mixtures
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge import ranking_tasks

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "gin" / "t5x").glob("*.gin"))
# T5X may be absent, and is what files are run by.
THEIRS = ("t5x", "__main__", "__gin__")
# Macros of T5X's own files at the revision of requirements/t5x.txt.
OF_T5X = {
  "BATCH_SIZE",
  "CHECKPOINT_PATH",
  "DROPOUT_RATE",
  "EVALUATOR_NUM_EXAMPLES",
  "EVAL_OUTPUT_DIR",
  "EVAL_PERIOD",
  "EVAL_STEPS",
  "INFER_OUTPUT_DIR",
  "INITIAL_CHECKPOINT_PATH",
  "JSON_WRITE_N_RESULTS",
  "MIXTURE_OR_TASK_NAME",
  "MODEL",
  "MODEL_DIR",
  "RANDOM_SEED",
  "TASK_FEATURE_LENGTHS",
  "TRAIN_STEPS",
  "TRAIN_STEPS_RELATIVE",
  "USE_CACHED_TASKS",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Name(config_parser.ParserDelegate):
  """What stands for @references and %macros, and collects them."""

  references: set[str] = dataclasses.field(default_factory=set)
  macros: set[str] = dataclasses.field(default_factory=set)

  def configurable_reference(self, scoped_configurable_name, evaluate):
    self.references.add(scoped_configurable_name.rsplit("/")[-1])

  def macro(self, macro_name):
    if macro_name != "gin.REQUIRED":
      self.macros.add(macro_name)


@dataclasses.dataclass
class _File:
  """A file with all that it includes of ours."""

  used: _Name = dataclasses.field(default_factory=_Name)
  modules: dict[str, Any] = dataclasses.field(default_factory=dict)
  absent: set[str] = dataclasses.field(default_factory=set)
  macros: set[str] = dataclasses.field(default_factory=set)
  bindings: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def _parse(path: pathlib.Path, into: _File | None = None) -> _File:
  found = into or _File()
  with path.open(encoding="utf-8") as file:
    for statement in config_parser.ConfigParser(file, found.used):
      match statement:
        case config_parser.ImportStatement():
          _import(statement, found)
        case config_parser.IncludeStatement(filename=name):
          if not name.startswith("t5x/"):
            _parse(ROOT / name, found)
        case config_parser.BindingStatement(selector=selector, arg_name=name):
          if name:
            found.bindings.append((selector, name))
          else:
            found.macros.add(selector)
  return found


def _import(statement: config_parser.ImportStatement, found: _File) -> None:
  name = statement.bound_name()
  if statement.module.split(".")[0] in THEIRS:
    found.absent.add(name)
  else:
    found.modules[name] = importlib.import_module(statement.module)


def _resolve(selector: str, found: _File) -> Any:
  """Returns what a selector names, or None if only T5X can tell."""
  module, *names = selector.split(".")
  if module in found.absent:
    return None
  assert module in found.modules, f"{selector}: {module} is not imported"
  value = found.modules[module]
  for name in names:
    assert hasattr(value, name), f"there is no {selector}"
    value = getattr(value, name)
  return value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_ours_exists(path):
  found = _parse(path)
  for selector in found.used.references:
    _resolve(selector, found)
  for selector, name in found.bindings:
    value = _resolve(selector, found)
    if value is not None:
      assert name in inspect.signature(value).parameters, f"{selector}.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_macros_are_bound_and_used(path):
  found = _parse(path)
  # Sizes are in the files of gin/model, one of which goes with each.
  sizes = {"VOCAB_SIZE", "NUM_HEADS", "LORA_RANK", "LORA_ALPHA"}
  assert found.used.macros - found.macros - OF_T5X - sizes == set()
  assert found.macros - found.used.macros - OF_T5X - sizes == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_and_names_in_it_exist(path):
  text = path.read_text(encoding="utf-8")
  templates = load_templates()
  known = {form.task_name for t in templates for form in t.forms}
  known |= mixtures(templates).keys() | {ranking_tasks.MIXTURE}
  known |= {ranking_tasks.task_name(s.name) for s in ranking_tasks.RANKED}
  assert set(re.findall(r"instructrec_\w+_v\d+", text)) <= known
  for name in re.findall(r"\b(?:gin|docs)/[\w/]+\.\w+", text):
    assert (ROOT / name).is_file(), name
  macros = _parse(path).macros | OF_T5X
  assert set(re.findall(r"--gin\.([A-Z_]+)=", text)) <= macros


def test_there_is_a_file_for_each_of_t5x_s_scripts():
  names = {path.stem for path in FILES}
  assert names >= {"eval", "finetune", "infer", "model", "tiny"}
