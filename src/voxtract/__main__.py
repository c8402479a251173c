"""``python -m voxtract`` is the ``voxtract`` command."""

from voxtract.cli import run

run()
