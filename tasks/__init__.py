"""SeqIO tasks and mixtures: `import tasks` registers them, and reads no data.

See `instructrec_jax.seqio_bridge.registration` for the names of instructions,
to train on, and `ranking_tasks` for those of ranking requests, to evaluate on.
"""

from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge.ranking_tasks import register_ranking
from instructrec_jax.seqio_bridge.registration import register

register(load_templates())
register_ranking()
