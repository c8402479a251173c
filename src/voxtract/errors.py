"""What can go wrong, as one tree.

::

    VoxtractError
    ├── InvalidInput (ValueError)          an argument, a header or a voxel that cannot be worked with
    │   └── DamagedFile                    a file whose bytes contradict each other: cut short, wrong checksum
    ├── NotFound (FileNotFoundError)       a file or folder that is not there, or holds nothing to do
    ├── UnreadableFile (OSError)           there, but the operating system does not hand it out
    ├── OutputError (OSError)              the result cannot be put where it was asked for
    └── BackendUnavailable (RuntimeError)  a device was asked for that this machine or installation lacks

Every message says where, what was found, what was expected and what to do. Each class also
inherits the builtin that code written without this package would catch.
"""


class VoxtractError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidInput(VoxtractError, ValueError):
    """An argument, a header or a voxel that cannot be worked with."""


class DamagedFile(InvalidInput):
    """A file whose bytes contradict each other: cut short, wrong checksum, not what its name says."""


class NotFound(VoxtractError, FileNotFoundError):
    """A file or folder that is not there, or holds nothing to do."""


class UnreadableFile(VoxtractError, OSError):
    """A file that is there, but that the operating system does not hand out."""


class OutputError(VoxtractError, OSError):
    """A result that cannot be put where it was asked for: read-only, disk full, in use."""


class BackendUnavailable(VoxtractError, RuntimeError):
    """A device was asked for that this machine or this installation lacks."""


def check_choice(word: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise `InvalidInput` that lists the allowed values unless `value` is one of them."""
    if value not in allowed:
        raise InvalidInput(f"{word} {value!r} is not known; allowed: {', '.join(map(repr, allowed))}")
