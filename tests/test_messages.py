"""Parts of messages."""

import pytest

from finetune_scaling.errors import ConfigError, exit_on_user_error
from finetune_scaling.messages import count_noun, describe_error


@pytest.mark.parametrize(("count", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (21, "21 runs")])
def test_a_noun_is_in_the_plural_unless_there_is_one(count, text):
    assert count_noun(count, "run") == text


def test_an_error_of_many_lines_is_one_short_line():
    assert describe_error(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert len(describe_error(OSError("x\n" * 1000))) == 300


def test_an_error_that_quotes_a_value_of_two_lines_is_printed_on_one(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise ConfigError("--config.x=a\nb\x00\ud800: expected an integer, größer als 0")
    assert capsys.readouterr().err == "error: --config.x=a\\nb\\x00\\ud800: expected an integer, größer als 0\n"
