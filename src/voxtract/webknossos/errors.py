"""What can go wrong with annotations, as classes that code written for either generation of the official API catches.

::

    DamagedFile (ValueError)
    └── FormatError (RuntimeError, AssertionError)   an annotation file that does not hold what the format asks for
    InvalidInput (ValueError)
    └── WrongUse (AssertionError)                    arguments that do not go together, or do not fit the annotation
        └── NoSuchLayer                              no volume layer, or not exactly one, is meant
    NotFound (FileNotFoundError)
    └── NoSuchFile (AssertionError)                  the annotation file is not there
    OutputError (OSError)
    └── AlreadyThere (FileExistsError, RuntimeError) what was to be made exists
"""

from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError


class FormatError(DamagedFile, RuntimeError, AssertionError):
    """An annotation file that does not hold what the format asks for."""


class WrongUse(InvalidInput, AssertionError):
    """Arguments that do not go together, or that do not fit the annotation."""


class NoSuchLayer(WrongUse):
    """No volume layer fits the name or id given, more than one does, or there is none at all."""


class NoSuchFile(NotFound, AssertionError):
    """The annotation file is not there."""


class AlreadyThere(OutputError, FileExistsError, RuntimeError):
    """What was to be made exists already."""
