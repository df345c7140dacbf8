import jax

from instructrec_jax import xla_options


def test_an_option_that_xla_lacks_is_left_out_with_a_sentence(capsys):
  assert not xla_options._is_known("xla_cpu_no_such_option", "1")
  message = capsys.readouterr().err
  assert "xla_cpu_no_such_option" in message and message.count("\n") == 1
  assert jax.__version__ in message


def test_this_xla_takes_all_options(capsys):
  assert len(xla_options.compiler_options(training=True) or ()) == 2
  assert not capsys.readouterr().err
