"""Installs instructrec_jax: one plain install brings the whole pipeline.

A slim one, to score, serve and ask an export, brings requirements/serve.txt
only; docs/serving.md says how. T5X itself is not on the package index; docs and
requirements for it are kept apart, and nothing here needs it.
"""

import pathlib
import re

import setuptools
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (ROOT / "instructrec_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
)
# pip's extras only add to a plain install, so that the slim one is a file of
# requirements; a plain install takes the same lines.
SERVE = [
  line
  for line in (ROOT / "requirements" / "serve.txt").read_text().splitlines()
  if line and not line.startswith("#")
]


class BuildWithGin(build_py):
  """Puts gin/ into the package.

  At the repository's top it must never become a package, since it would install
  over gin-config.
  """

  def run(self) -> None:
    """Copies the modules, then the gin files."""
    super().run()
    if not self.editable_mode:
      self.copy_tree("gin", f"{self.build_lib}/instructrec_jax/gin")


setuptools.setup(
  name="instructrec-jax",
  version=VERSION[1],
  description=(
    "Recommendation as instruction following (InstructRec) in JAX: a T5 "
    "ranks items by the likelihood of their titles."
  ),
  long_description=open("README.md", encoding="utf-8").read(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["instructrec_jax*"]),
  package_data={
    "instructrec_jax": [
      "py.typed",
      *(f"**/*.{kind}" for kind in ("yaml", "jinja", "html", "css", "js")),
    ]
  },
  cmdclass={"build_py": BuildWithGin},
  install_requires=[
    *SERVE,
    "aiolimiter>=1.2",
    "gin-config>=0.5.0",
    # tensorflow-datasets 4.9.10 imports it when writing, undeclared.
    "importlib_resources",
    "jinja2>=3.1",
    # jinja2 brings it, too.
    "markupsafe>=2",
    "matplotlib>=3.10",
    "openai>=3.0",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "polars>=2.0",
    "rouge-score>=0.1.2",
    "sacrebleu>=2.6",
    "scipy>=1.14",
    "seqio==0.0.20",
    "shtab>=1.7",
    "tensorboardX>=2.6.4",
    "tensorstore>=0.1.70",
    # Not tensorflow-cpu: tensorflow-text requires this one, and both would
    # install over each other.
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10,<4.10",
    "tensorflow-text>=2.21,<2.22",
  ],
  extras_require={
    "gpu": ["jax[cuda13]>=0.10.2,<0.11"],
    "tpu": ["jax[tpu]>=0.10.2,<0.11"],
    # `instructrec build --beam_runner`. It takes an older protobuf, with which
    # newer sentencepiece cannot be imported.
    "beam": ["apache-beam>=2.77,<3", "sentencepiece<0.2.3"],
    # `instructrec mcp`.
    "mcp": ["mcp>=2.3,<3"],
    "test": [
      "chex>=0.1.92",
      # A client of rerank servers that others wrote.
      "cohere>=7.3",
      "hypothesis>=6.100",
      # Run the notebooks of docs/.
      "ipykernel>=7",
      "nbclient>=0.10",
      "import-linter>=2.16",
      "mcp>=2.3,<3",
      # The documentation, which a test builds.
      "mkdocs-material>=9.7",
      "pyright[nodejs]==1.1.414",
      "pytest>=9.0",
      "pytest-timeout>=2.4",
      "pytest-xdist>=3.8",
      "ruff==0.17.6",
      "schemathesis>=4.30",
      "scikit-learn>=1.5",
      # Builds the wheel that tests/packaging_test.py looks into.
      "setuptools>=77",
    ],
    # Apart from `test`: torch's plain name brings gigabytes of CUDA on Linux.
    "parity": [
      "peft>=0.17",
      "sentence-transformers>=5.2",
      "torch==2.13.0",
      "transformers==5.23.0",
    ],
  },
  entry_points={
    "console_scripts": ["instructrec = instructrec_jax.cli.main:main"]
  },
)
