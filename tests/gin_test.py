"""Every file under gin/ parses, names what exists and binds what is used."""

import math
import pathlib
import re

import gin
import jax
import pytest

from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.transformer import Transformer

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "gin").rglob("*.gin"))
PARAMETERS = {
  "mini": 9_012_992,
  "small": 76_961_152,
  "base": 247_577_856,
  "large": 783_150_080,
  "xl": 2_849_757_184,
  "xxl": 11_135_332_352,
}


@pytest.fixture(autouse=True)
def parse(monkeypatch):
  """Parses as the command line does: paths are relative to the root."""
  monkeypatch.chdir(ROOT)
  gin.clear_config()

  def parse(*names, bindings=()):
    for name in names:
      gin.parse_config_file(name)
    gin.parse_config(list(bindings))

  yield parse
  gin.clear_config()


def _with_includes(path: pathlib.Path) -> str:
  """The text of a file and all it includes, without comments."""
  text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
  for name in re.findall(r"^include ['\"](.+)['\"]", text, re.MULTILINE):
    if not (ROOT / name).exists():
      pytest.skip(f"{name} belongs to a package that is absent")
    text += _with_includes(ROOT / name)
  return text


def _network() -> Transformer:
  return gin.get_configurable("transformer.Transformer")()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_parses(path, parse):
  text = _with_includes(path)
  if re.search(r"^(import|from) (t5x|__main__)", text, re.MULTILINE):
    pytest.importorskip("t5x", reason="T5X is absent")
  # Unknown names and parameters are errors of the parser.
  parse(str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_macro_is_referenced(path):
  """gin itself lets a misspelt macro pass."""
  text = _with_includes(path)
  bound = set(re.findall(r"^([A-Z][A-Z0-9_]*)\s*=", text, re.MULTILINE))
  used = set(re.findall(r"%([A-Z][A-Z0-9_]*)", text))
  # The command asks gin for some macros by name.
  command = ROOT / "instructrec_jax" / "cli" / "train.py"
  used |= set(re.findall(r'"([A-Z][A-Z0-9_]*)"', command.read_text()))
  assert bound - used == set()


@pytest.mark.parametrize("size", PARAMETERS)
def test_sizes_build_with_their_number_of_parameters(size, parse):
  path = ROOT / "gin" / "model" / f"{size}.gin"
  parse(str(path.relative_to(ROOT)))
  config = _network().config.validate()
  shapes = jax.tree.leaves(parameters.parameter_shapes(config))
  count = sum(math.prod(leaf.shape) for leaf in shapes)
  assert count == PARAMETERS[size]
  # The header says so too.
  assert f"{count / 1e6:,.1f}M parameters" in path.read_text()
  assert config.dtype == ("float32" if size == "mini" else "bfloat16")


def test_every_model_file_has_a_known_size():
  sizes = {path.stem for path in (ROOT / "gin" / "model").glob("*.gin")}
  assert sizes - {"t5_1_1"} == set(PARAMETERS)


def test_macros_reach_the_config(parse):
  parse(
    "gin/model/mini.gin",
    bindings=[
      "VOCAB_SIZE = 4096",
      "DROPOUT_RATE = 0.0",
      "ACTIVATION_DTYPE = 'bfloat16'",
      "REMAT_POLICY = 'full'",
      "NUM_LAYERS = 1",
    ],
  )
  config = _network().config
  assert config.vocab_size == 4096
  assert config.dropout_rate == 0.0
  assert config.dtype == "bfloat16"
  assert config.remat_policy == "full"
  assert (config.num_encoder_layers, config.num_decoder_layers) == (1, 1)


def test_a_misspelt_parameter_is_refused(parse):
  parse("gin/model/mini.gin")
  with pytest.raises((ValueError, AttributeError), match="emb_dimm"):
    gin.parse_config("config.T5Config.emb_dimm = 3")


def test_the_gin_folder_does_not_shadow_gin_config():
  assert not (ROOT / "gin" / "__init__.py").exists()
  assert callable(gin.configurable)
