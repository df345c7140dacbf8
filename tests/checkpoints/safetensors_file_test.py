import json

import ml_dtypes
import numpy as np
import pytest

from instructrec_jax.checkpoints.safetensors_file import open_file, write_file
from instructrec_jax.errors import InputError

ARRAYS = {
  "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
  "vector": np.array([1.5, -2], np.float32),
}


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "model.safetensors"
  shapes = {name: array.shape for name, array in ARRAYS.items()}
  write_file(path, shapes, "float32", ARRAYS.__getitem__)
  return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip(tmp_path, dtype):
  path = tmp_path / "model.safetensors"
  shapes = {name: array.shape for name, array in ARRAYS.items()}
  write_file(path, shapes, dtype, ARRAYS.__getitem__)
  leaves = open_file(path)
  assert list(leaves) == list(ARRAYS)
  for name, array in ARRAYS.items():
    found = leaves[name].read()
    assert (found.shape, found.dtype.name) == (array.shape, dtype)
    np.testing.assert_array_equal(found.astype(np.float32), array)


def test_the_package_of_that_name_reads_and_writes_the_same(file, tmp_path):
  theirs = pytest.importorskip("safetensors.numpy")
  loaded = theirs.load_file(file)
  assert loaded.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(loaded[name], array)
  other = tmp_path / "other.safetensors"
  halves = {"half": np.ones((2, 1), np.float16)}
  halves["bfloat"] = np.full(3, 0.1, ml_dtypes.bfloat16)
  theirs.save_file(halves, other)
  for name, array in halves.items():
    np.testing.assert_array_equal(open_file(other)[name].read(), array)


def test_every_cut_is_noticed(file):
  whole = file.read_bytes()
  for length in (0, 4, 8, 40, len(whole) - 1):
    file.write_bytes(whole[:length])
    with pytest.raises(InputError, match="cut short"):
      open_file(file)
  file.write_bytes(whole + b"x")
  with pytest.raises(InputError, match=r"bytes where its header says"):
    open_file(file)


@pytest.mark.parametrize(
  "change", [{"dtype": "I64"}, {"shape": [3, 3]}, {"data_offsets": None}]
)
def test_a_wrong_header_is_refused(file, change):
  whole = file.read_bytes()
  length = int.from_bytes(whole[:8], "little")
  header = json.loads(whole[8 : 8 + length])
  header["transposed"] |= change
  text = json.dumps(header).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
  with pytest.raises(InputError, match="transposed is not an array of"):
    open_file(file)


def test_arrays_that_share_bytes_are_refused(file):
  whole = file.read_bytes()
  length = int.from_bytes(whole[:8], "little")
  header = json.loads(whole[8 : 8 + length])
  first, last = header["transposed"]["data_offsets"]
  header["vector"]["data_offsets"] = [last - 8, last]
  text = json.dumps(header).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
  with pytest.raises(InputError, match="transposed and vector share bytes"):
    open_file(file)


def test_a_pointer_of_git_lfs_is_told(file):
  file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
  with pytest.raises(InputError, match="git lfs pull"):
    open_file(file)
