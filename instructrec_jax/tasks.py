"""SeqIO tasks and mixtures: importing this registers them and reads no data.

`seqio_bridge.registration` names those of instructions, to train on, and
`seqio_bridge.ranking_tasks` those of ranking requests, to evaluate on.
"""

from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge.ranking_tasks import register_ranking
from instructrec_jax.seqio_bridge.registration import register

register(load_templates())
register_ranking()
