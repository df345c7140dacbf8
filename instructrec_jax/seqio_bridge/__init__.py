"""The only package that imports TensorFlow, TFDS and SeqIO."""

import os


def _import_tensorflow_quietly() -> None:
  """TensorFlow logs to file descriptor 2 before it reads any log level.

  It only reads data here: the accelerator's memory is for jax.
  """
  kept = os.dup(2)
  try:
    with open(os.devnull, "wb") as nowhere:
      os.dup2(nowhere.fileno(), 2)
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
  finally:
    os.dup2(kept, 2)
    os.close(kept)


_import_tensorflow_quietly()
