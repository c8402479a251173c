"""What pytest leaves out where an optional package is not installed: the doctests of the modules that need it."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["src/voxtract/torch"]
