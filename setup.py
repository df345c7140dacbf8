"""Installs instructrec_jax: one plain install brings the whole pipeline.

T5X itself is not on the package index; docs and requirements for it are kept
apart, and nothing here needs it.
"""

import setuptools

setuptools.setup(
  name="instructrec-jax",
  version="0.1.0",
  description=(
    "Recommendation as instruction following (InstructRec) in JAX: a T5 "
    "ranks items by the likelihood of their titles."
  ),
  long_description=open("README.md", encoding="utf-8").read(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  # Named, not found: the folder gin/ at the root must never be packaged, it
  # would install over gin-config.
  packages=setuptools.find_packages(include=["instructrec_jax*", "tasks*"]),
  package_data={
    "instructrec_jax": [
      "evaluation/templates/*.jinja",
      "instructions/*.yaml",
      "paper.yaml",
      "serving/page/*",
    ]
  },
  install_requires=[
    "aiolimiter>=1.2",
    "fastapi>=0.115",
    "flax>=0.12.8,<0.13",
    "gin-config>=0.5.0",
    # tensorflow-datasets 4.9.10 imports it when writing, undeclared.
    "importlib_resources",
    "jax>=0.10.2,<0.13",
    "jaxtyping>=0.3.11",
    "jinja2>=3.1",
    "matplotlib>=3.10",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "openai>=3.0",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "orjson>=3.10",
    "polars>=2.0",
    "prometheus-client>=0.21",
    "pyarrow>=20",
    "pydantic>=2.10",
    "pyyaml>=6.0",
    "sentencepiece>=0.2.1",
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
    "tqdm>=4.66",
    "uvicorn>=0.32",
  ],
  extras_require={
    "gpu": ["jax[cuda13]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "test": [
      "chex>=0.1.92",
      # A client of rerank servers that others wrote.
      "cohere>=7.3",
      "hypothesis>=6.100",
      "import-linter>=2.16",
      "pyright[nodejs]==1.1.414",
      "pytest>=9.0",
      "pytest-xdist>=3.8",
      "ruff==0.17.6",
      "schemathesis>=4.30",
      "scikit-learn>=1.5",
    ],
    # Apart from `test`: torch's plain name brings gigabytes of CUDA on Linux.
    "parity": [
      "sentence-transformers>=5.2",
      "torch==2.13.0",
      "transformers==5.23.0",
    ],
  },
  entry_points={
    "console_scripts": ["instructrec = instructrec_jax.cli.main:main"]
  },
)
