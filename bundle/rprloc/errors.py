"""The one exception for input that the user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used, and that the user can put right.

    The message is written to be shown as it is: it says what is wrong and what to do.

    Examples
    --------
    >>> try:
    ...     rprloc.read_volume("nobody.nii.gz")
    ... except rprloc.InputError as error:
    ...     print("This scan is left out:", error)
    This scan is left out: ...nobody.nii.gz...
    """
