"""The array half runs without TensorFlow, SeqIO, T5X, gin and openai."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

ARRAY_HALF = (
  "requests",
  "text",
  "kernels",
  "seq2seq",
  "checkpoints",
  "mesh",
  "training",
  "scoring",
  "generation",
)
BLOCKED = (
  "tensorflow",
  "tensorflow_datasets",
  "seqio",
  "t5x",
  "gin",
  "openai",
  "polars",
)


def _modules(root: pathlib.Path) -> list[str]:
  package = root / "instructrec_jax"
  found = []
  for name in ARRAY_HALF:
    files = [package / f"{name}.py", *(package / name).rglob("*.py")]
    # Apache Beam is an extra.
    found += [f for f in files if f.exists() and f.name != "beam.py"]
  return [
    ".".join(file.relative_to(root).with_suffix("").parts) for file in found
  ]


def test_array_half_imports_without_the_text_frameworks(root):
  modules = _modules(root)
  assert len(modules) > 15
  program = textwrap.dedent(f"""
    import importlib, sys
    class Blocker:
      def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
          raise ImportError("blocked: " + name)
    sys.meta_path.insert(0, Blocker())
    for name in {modules!r}:
      importlib.import_module(name.removesuffix(".__init__"))
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["instructrec_jax", "tasks"])
def test_importing_the_package_is_light(root, package):
  heavy = ("jax", "tensorflow", "polars", "torch")
  if package == "tasks":
    # SeqIO itself brings TensorFlow; the registrations add no data access.
    heavy = ("torch",)
  program = (
    f"import sys, {package}\n"
    f"assert not set({heavy!r}) & set(sys.modules), sorted(sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
  )
  assert done.returncode == 0, done.stderr


def test_the_gin_folder_does_not_shadow_gin_config(root):
  import gin

  assert not (root / "gin" / "__init__.py").exists()
  assert callable(gin.configurable)


def test_the_package_itself_imports_nothing_until_it_is_asked(root):
  program = textwrap.dedent("""
    import sys
    import instructrec_jax as ir
    heavy = {"jax", "numpy", "polars", "flax"} & set(sys.modules)
    assert not heavy, heavy
    assert ir.__version__ and {"Recommender", "InputError"} <= set(dir(ir))
    assert "jax" not in sys.modules
    from instructrec_jax.serving.recommender import Recommender
    assert ir.Recommender is Recommender
    try:
      ir.nothing
    except AttributeError as error:
      assert "nothing" in str(error)
    else:
      raise AssertionError
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
  )
  assert done.returncode == 0, done.stderr
