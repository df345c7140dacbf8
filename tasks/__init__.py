"""SeqIO tasks and mixtures: `import tasks` registers them, and reads no data.

See `instructrec_jax.seqio_bridge.registration` for their names.
"""

from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seqio_bridge.registration import register

register(load_templates())
