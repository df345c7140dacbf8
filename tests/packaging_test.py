"""What is installed: the wheel, as an index or `pip install .` makes it."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import instructrec_jax
from instructrec_jax.gin_files import search_path


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
  """A folder in which the wheel is unpacked, with no clone near it."""
  folder = tmp_path_factory.mktemp("packaging")
  clone = folder / "clone"
  clone.mkdir()
  for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md"):
    shutil.copy(root / name, clone)
  for name in ("instructrec_jax", "gin", "requirements", "tasks"):
    shutil.copytree(
      root / name, clone / name, ignore=shutil.ignore_patterns("__pycache__")
    )
  sdist = _build("build_sdist", clone, folder)
  shutil.unpack_archive(sdist, folder, filter="data")
  source = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
  shutil.rmtree(clone)
  with zipfile.ZipFile(_build("build_wheel", source, folder)) as wheel:
    wheel.extractall(folder / "installed")
  return folder / "installed"


def _build(hook: str, source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
  """Calls one of the functions by which pip builds; returns the file."""
  program = (
    "import sys; from setuptools import build_meta; "
    f"print(build_meta.{hook}(sys.argv[1]))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, str(out)],
    capture_output=True,
    text=True,
    cwd=source,
  )
  assert done.returncode == 0, done.stderr
  return out / done.stdout.split()[-1]


def _files(folder: pathlib.Path) -> set[str]:
  return {
    str(path.relative_to(folder))
    for path in folder.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }


def test_the_wheel_holds_all_files_of_the_package_and_of_gin(installed, root):
  package = installed / "instructrec_jax"
  gin = _files(root / "gin")
  assert "model/mini.gin" in gin and "__init__.py" not in gin
  assert _files(package / "gin") == gin
  expected = _files(root / "instructrec_jax")
  assert "py.typed" in expected
  assert _files(package) - {f"gin/{name}" for name in gin} == expected
  # Neither tasks/ nor gin/, which would install over gin-config.
  version = f"instructrec_jax-{instructrec_jax.__version__}.dist-info"
  assert {path.name for path in installed.iterdir()} == {
    "instructrec_jax",
    version,
  }


def test_gin_files_have_the_same_names_in_a_clone_and_in_a_wheel(
  installed, root
):
  assert search_path() == root
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      "import gin; from instructrec_jax.gin_files import search_path; "
      "gin.add_config_file_search_path(str(search_path())); "
      "gin.parse_config_file('gin/model/mini.gin', skip_unknown=True); "
      "print(search_path())",
    ],
    capture_output=True,
    text=True,
    cwd=installed,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == str(installed / "instructrec_jax")
