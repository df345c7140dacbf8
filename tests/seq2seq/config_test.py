import json
from typing import Any

import jax.numpy as jnp
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config


def test_json_round_trip():
  config = T5Config(
    vocab_size=128, dtype="bfloat16", mlp_activations=("relu",), head_dim=7
  )
  assert T5Config.from_json(config.to_json()) == config


def test_json_names_a_dtype_that_was_given_as_a_type():
  text = T5Config(dtype=jnp.bfloat16).to_json()
  assert T5Config.from_json(text).dtype == "bfloat16"


def test_head_width_is_free_of_the_embedding_width():
  config = T5Config(emb_dim=512, num_heads=6, head_dim=64)
  assert config.validate() is config


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("emb_dim", "wide"),
    ("num_heads", 0),
    ("head_dim", 2.0),
    ("mlp_dim", True),
    ("dropout_rate", 1),
    ("dropout_rate", "0.1"),
    ("dropout_rate", float("nan")),
    ("mlp_activations", "gelu"),
    ("mlp_activations", ()),
    ("mlp_activations", ("gelu", "linaer")),
    ("dtype", "wide"),
    ("dtype", "float16"),
    ("dtype", "int32"),
    ("logits_via_embedding", "no"),
    ("float32_attention_logits", 1),
    ("remat_policy", "some"),
    ("attention", "flash"),
    ("attention", 3),
  ],
)
def test_a_wrong_field_is_named_in_a_sentence(field, value):
  with pytest.raises(InputError) as caught:
    T5Config(**{field: value}).validate()
  message = str(caught.value)
  assert message.startswith(f"T5Config.{field} is {value!r}: ")
  assert message.endswith(".")


@pytest.mark.parametrize(
  ("field", "value"),
  [("dtype", "float32"), ("head_dim", 36), ("head_dim", 136)],
)
def test_what_cudnn_has_not_is_named(field, value):
  fields: Any = {"dtype": "bfloat16"} | {field: value}
  with pytest.raises(InputError, match=f"cudnn.* {field} is {value}: another"):
    T5Config(attention="cudnn", **fields).validate()


def test_json_with_a_field_missing_unknown_or_wrong_is_refused():
  fields = json.loads(T5Config().to_json())
  missing = {k: v for k, v in fields.items() if k != "emb_dim"}
  for broken in (missing, fields | {"widht": 3}, [], None):
    with pytest.raises(InputError, match="exactly the fields .*emb_dim"):
      T5Config.from_json(json.dumps(broken))
  with pytest.raises(InputError, match="emb_dim is 'wide'"):
    T5Config.from_json(json.dumps(fields | {"emb_dim": "wide"}))
  with pytest.raises(InputError, match="not the JSON of a T5Config"):
    T5Config.from_json("{")
