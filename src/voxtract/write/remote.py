"""Put files in place at a URL: each object appears when it is complete, those of a batch at its end.

The files of a batch are first written into a folder on this machine (``TMPDIR``), whose owner and leftovers are told
apart as in files.py, and sent when the batch ends, several at a time. A batch that fails before has sent nothing.

A folder that takes the place of another one cannot do so at once: the old one is removed, then come the files that lie
deepest, and last those at its top, which say what it is (the metadata of a zarr group).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from types import TracebackType

from voxtract.errors import OutputError
from voxtract.storage import Place, Remote
from voxtract.write.files import Staging, remove

SENDERS = 16  # files on their way at once: a store answers in 10 to 50 ms, whatever else it does


def staging(root: Place) -> Staging:
    """Choose how files come into `root`, a folder or a URL."""
    return RemoteStaging(root) if isinstance(root, Remote) else Staging(root)


class RemoteStaging(Staging):
    """As `Staging`, for a URL.

    Parameters
    ----------
    root : Remote
        Output folder.

    Raises
    ------
    InvalidInput
        On entering: the URL can only be read.
    OutputError
        On entering: the folder for temporary files cannot be written to.
    """

    def __init__(self, root: Remote) -> None:
        super().__init__(Path(tempfile.gettempdir()))
        self._remote = root
        self._final = str(root)
        self._senders = ThreadPoolExecutor(SENDERS, "voxtract-send")

    def __enter__(self) -> RemoteStaging:
        self._remote.check_writable()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._senders.shutdown(cancel_futures=True)
        super().__exit__(kind, error, trace)

    @property
    def root(self) -> Remote:
        """The output folder."""
        return self._remote

    def _put_in_place(self, files: Sequence[tuple[str, str]]) -> None:
        self._send_all([(staged, name) for staged, name in files if not Path(staged).is_dir()])
        for staged, name in files:
            if Path(staged).is_dir():
                self._send_folder(Path(staged), name)
        for staged, _ in files:
            remove(staged)

    def _send_folder(self, staged: Path, name: str) -> None:
        try:
            (self._remote / name).rmtree()
        except OSError as why:
            raise OutputError(f"{self._final}/{name}: cannot be replaced: {why.strerror}") from why
        inside = sorted((path.relative_to(staged) for path in staged.rglob("*") if path.is_file()), key=_height)
        for _, level in groupby(inside, _height):
            self._send_all([(str(staged / path), f"{name}/{path.as_posix()}") for path in level])

    def _send_all(self, files: Sequence[tuple[str, str]]) -> None:
        sent = [self._senders.submit(self._send, *file) for file in files]
        try:
            wait(sent, return_when=FIRST_EXCEPTION)
            for future in sent:
                if future.done():
                    future.result()
        finally:
            for future in sent:
                future.cancel()
            wait(sent)  # what is on its way still reads its file

    def _send(self, staged: str, name: str) -> None:
        try:
            (self._remote / name).upload(staged)
        except OSError as why:
            raise OutputError(f"{self._final}/{name}: cannot be written: {why.strerror}") from why


def _height(path: Path) -> int:
    """Lowest for what lies deepest."""
    return -len(path.parts)
