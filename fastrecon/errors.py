"""Errors that a person can mend; the command line prints them without a traceback."""


class ImageError(ValueError):
    """A picture that cannot be used; the message says why and what to do."""


class MeshError(ValueError):
    """A mesh that cannot be used or made; the message says why and what to try."""
