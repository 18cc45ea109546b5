"""Words for people."""


def counted(count: int, noun: str) -> str:
    """A number and a noun that agree.

    Args:
        count: how many.
        noun: its singular; its plural ends with an s.

    >>> counted(1, "held-out crop"), counted(0, "crop"), counted(3, "crop")
    ('1 held-out crop', '0 crops', '3 crops')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def plain_label(text: str) -> str:
    r"""A text from outside in which matplotlib finds no formula.

    >>> plain_label("$x$")
    '\\$x\\$'
    """
    return text.replace("$", r"\$")
