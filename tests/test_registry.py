import pytest

from uer.errors import UserError
from uer.registry import choose

TABLE = {"first": 1, "second": 2}


def test_returns_the_entry():
    assert choose(TABLE, "second", "--flag") == 2


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(UserError, match=r"--flag: 'third' is unknown; choose from: first, second"):
        choose(TABLE, "third", "--flag")
