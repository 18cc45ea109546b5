"""Every fatal error, and what is derived from it, arrives as it was raised."""

import pytest

from rawnind import errors
from rawnind.pipeline.trouble import FATAL, decode_trouble, encode_trouble

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FATAL)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fatal_error_arrives_as_it_was_raised(kind):
    arrived = decode_trouble(encode_trouble(kind("parts/ is a symbolic link")))
    assert type(arrived) is kind
    assert str(arrived) == "parts/ is a symbolic link"
