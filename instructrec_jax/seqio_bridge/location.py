"""Which dataset folder the tasks read: known at run time, not at import.

T5X says so with `--tfds_data_dir`, our commands with `--dataset`; both end in
SeqIO's data folder. One dataset a process.
"""

import pathlib

import seqio

from instructrec_jax.errors import InputError

# What `build` adds to a dataset folder; the manifest comes last.
MANIFEST_FILE = "instructions.json"
TEMPLATES_FILE = "templates.yaml"
TFDS_CONFIG = "main"
TFDS_VERSION = "1.0.0"
TFDS_NAME = f"instructrec/{TFDS_CONFIG}:{TFDS_VERSION}"


def dataset_in_use() -> pathlib.Path:
  """Returns the folder that SeqIO reads.

  Raises:
    InputError: none has been set.
  """
  # SeqIO has a setter for it and no getter.
  path = seqio.utils._TFDS_DATA_DIR_OVERRIDE
  if not path:
    raise InputError(
      "no dataset folder is set: pass --dataset, or --tfds_data_dir to T5X."
    )
  return pathlib.Path(path)


def tfds_folder(path: pathlib.Path) -> pathlib.Path:
  """Returns where in a dataset folder the instructions lie."""
  return pathlib.Path(path) / "instructrec" / TFDS_CONFIG / TFDS_VERSION
