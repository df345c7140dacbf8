from instructrec_jax.instructions.responses import response


def test_yes_no_tells_whether_it_is_about_the_target():
  assert response("yes_no", target="Lamp", positive=True) == "Yes"
  assert response("yes_no", target="Lamp", positive=False) == "No"


def test_item_is_the_targets_title():
  assert response("item", target="Lamp", positive=False) == "Lamp"
