"""Errors that a user can mend: each says what is wrong, where, what is allowed and what to do.

The command line prints them without a traceback; any other exception is a defect of this program.
"""


class FewshotError(Exception):
    """Base of all errors whose text is meant for the user."""


class ParamsError(FewshotError):
    """`params.yaml` or a command-line setting is not usable."""


class DataError(FewshotError):
    """A data file, archive or prepared store is missing, damaged or not what it should be."""


class CheckpointError(FewshotError):
    """A checkpoint or weights file is missing, damaged or does not fit."""


class NumericalError(FewshotError):
    """A computation gave a non-finite value, or a solver did not reach its tolerance."""


class ResourceError(FewshotError):
    """Memory, disk or a device is short."""
