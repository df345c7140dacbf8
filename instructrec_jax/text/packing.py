"""Which examples share a row: best-fit decreasing within a window.

An example has two lengths and must fit a row in both. Longest first, each
goes to the fullest row that still takes it. That leaves a fifth as much
padding as SeqIO's greedy packing does (benchmarks/input_pipeline.py).
"""

from collections.abc import Sequence


def pack_lengths(
  encoder_lengths: Sequence[int],
  decoder_lengths: Sequence[int],
  *,
  encoder_length: int,
  decoder_length: int,
) -> list[list[int]]:
  """Packs one window of examples.

  Args:
    encoder_lengths: tokens of each example's input.
    decoder_lengths: tokens of each example's target.
    encoder_length: a row's room for inputs.
    decoder_length: a row's room for targets.

  Returns:
    Rows, each a list of indices into the lengths; every index once.

  Raises:
    ValueError: an example is longer than a row.
  """
  if max(encoder_lengths, default=0) > encoder_length or (
    max(decoder_lengths, default=0) > decoder_length
  ):
    raise ValueError("an example is longer than a row")
  rows: list[list[int]] = []
  target_room: list[int] = []
  # Open rows by the room they have left; `rooms` has a bit for each room in
  # use, so that the fullest row that fits is the lowest bit from `need` on.
  by_room: list[list[int]] = [[] for _ in range(encoder_length + 1)]
  rooms = 0
  order = sorted(range(len(encoder_lengths)), key=lambda i: -encoder_lengths[i])
  for example in order:
    need, target_need = encoder_lengths[example], decoder_lengths[example]
    fitting = rooms >> need
    chosen = -1
    while fitting:
      room = need + (fitting & -fitting).bit_length() - 1
      for place, row in enumerate(by_room[room]):
        if target_room[row] >= target_need:
          chosen = row
          del by_room[room][place]
          if not by_room[room]:
            rooms ^= 1 << room
          break
      if chosen >= 0:
        break
      fitting &= fitting - 1
    else:
      chosen, room = len(rows), encoder_length
      rows.append([])
      target_room.append(decoder_length)
    rows[chosen].append(example)
    target_room[chosen] -= target_need
    left = room - need
    # Rows with next to no room are closed, or every search would visit them.
    if left and target_room[chosen]:
      by_room[left].append(chosen)
      rooms |= 1 << left
  return rows
