"""What the model should answer, by a template's form of response."""

YES = "Yes"
NO = "No"


def response(form: str, *, target: str, positive: bool = True) -> str:
  """Returns the answer's text.

  Args:
    form: of `templates.RESPONSES`.
    target: the target item's title.
    positive: of a pointwise instruction: it asks about the target itself.
  """
  if form == "yes_no":
    return YES if positive else NO
  return target
