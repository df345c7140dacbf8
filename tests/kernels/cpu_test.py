import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.kernels.cpu import Spans, attend_spans

# Of queries and of keys; the last examples end where the batch does.
SPANS = {
  "self": ([(0, 33), (33, 80), (113, 1), (114, 50)],) * 2,
  "cross": (
    [(0, 2), (2, 1), (3, 80), (83, 40)],
    [(0, 50), (50, 90), (140, 1), (141, 20)],
  ),
}


def dense(query, key, value, bias, spans):
  """Attention of all with all, masked."""
  masks = [
    np.array([[s <= i < s + n for i in range(len(x))] for s, n in of_side])
    for x, of_side in zip((query, key), spans, strict=True)
  ]
  mask = np.einsum("en,em->nm", *masks)
  logits = jnp.einsum("nhk,mhk->hnm", query, key)
  if bias is not None:
    starts = [
      np.sum([m * s for m, (s, _) in zip(of_side, span, strict=True)], 0)
      for of_side, span in zip(masks, spans, strict=True)
    ]
    index = [np.arange(len(s)) - s for s in starts]
    logits += bias[:, index[0][:, None] % 80, index[1] % 80]
  weights = jax.nn.softmax(jnp.where(mask, logits, -1e10))
  return jnp.einsum("hnm,mhk->nhk", weights, value)


@pytest.mark.parametrize("kind", SPANS)
def test_values_and_gradients_are_those_of_masked_attention(kind):
  rng = np.random.default_rng(0)
  spans = SPANS[kind]
  counts = [sum(n for _, n in of_side) for of_side in spans]
  query, key, value, cotangent = (
    jnp.asarray(rng.normal(size=(counts[side], 2, 4)), jnp.float32)
    for side in (0, 1, 1, 0)
  )
  distance = jnp.arange(80) - jnp.arange(80)[:, None]
  table = jnp.asarray(rng.normal(size=(2, 159)), jnp.float32)

  def by_segments(query, key, value, table):
    # No example, in two places.
    sides = [
      (jnp.array([0, *starts, 0]), jnp.array([0, *lengths, 0]))
      for starts, lengths in (zip(*of_side, strict=True) for of_side in spans)
    ]
    examples = Spans.sort(
      sides[0],
      None if kind == "self" else sides[1],
      longest=(80, 80 if kind == "self" else 90),
      eighths=((1, 3, 4, 8), (2, 8)),
    )
    bias = table[:, distance + 79] if kind == "self" else None
    return attend_spans(query, key, value, bias, examples)

  def by_mask(query, key, value, table):
    bias = table[:, distance + 79] if kind == "self" else None
    return dense(query, key, value, bias, spans)

  with jax.default_matmul_precision("highest"):
    ours, pull = jax.vjp(by_segments, query, key, value, table)
    expected, pull_expected = jax.vjp(by_mask, query, key, value, table)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for gradient, other in zip(
      pull(cotangent), pull_expected(cotangent), strict=True
    ):
      np.testing.assert_allclose(gradient, other, atol=1e-5)
