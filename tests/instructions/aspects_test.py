from instructrec_jax.instructions.aspects import (
  Aspects,
  Intention,
  Preference,
  TaskForm,
)


def test_label_and_family_are_the_papers_notation():
  aspects = Aspects(
    preferences=(Preference.IMPLICIT,),
    intention=Intention.SPECIFIC,
    task_form=TaskForm.RERANKING,
    optional=(Preference.EXPLICIT,),
  )
  assert aspects.label == "<P1,(P2),I2,T3>"
  # An optional preference makes no family of its own.
  assert aspects.family == "p1_i2_t3"
