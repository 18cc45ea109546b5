"""Checks that the classes of options share. An option that breaks its rule is a ConfigError: name, rule, value."""

import math
from enum import StrEnum
from typing import TypeGuard, TypeVar

from rawnind.errors import ConfigError

Member = TypeVar("Member", bound=StrEnum)


def require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raises where a rule does not hold.

    Args:
        holds: whether it does.
        rule: the option's name and what it must be, for example "tries must be at least 1".
        value: the option's value.

    Raises:
        ConfigError: The rule does not hold.
    """
    if not holds:
        raise ConfigError(f"{rule}, got {value!r}")


def member(kind: type[Member], name: str, value: object) -> Member:
    """The member of an enumeration that a text names.

    Args:
        kind: the enumeration.
        name: the option's name.
        value: a member or its text.

    Raises:
        ConfigError: There is no such member.
    """
    if not isinstance(value, str) or value not in list(kind):
        raise ConfigError(f"{name} must be one of {', '.join(kind)}, got {value!r}")
    return kind(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an int; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float; True and False are none."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_fraction(value: object) -> bool:
    """Whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and is_number(value) and 0 <= value <= 1
