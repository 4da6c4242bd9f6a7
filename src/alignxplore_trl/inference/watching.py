"""Signals that are appended to a file while it is read."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

from alignxplore_trl.data.rows import unreadable_row, value_of
from alignxplore_trl.inference.signal_files import UserSignal, signal_of
from alignxplore_trl.run.errors import Problems, UserError


class AppendedSignals:
    """Reads what has been added to a file of JSON lines since it was last read.

    A line counts when its end is there. A file that has become shorter, or was put in the place of
    another, is read from its beginning: signals that are known stay known.

    Args:
        path: the file, which may come later.

    Raises:
        UserError: its folder isn't there, or it is a folder itself.
    """

    def __init__(self, path: Path) -> None:
        if not path.absolute().parent.is_dir():
            raise UserError(f"{path}: found no folder {path.absolute().parent}; make it first")
        if path.is_dir():
            raise UserError(f"{path}: found a folder, expected a file of JSON lines")
        self.path = path
        self._problems = Problems()
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._line = 0

    def read(self, *, to_the_end: bool = False) -> list[UserSignal]:
        """The signals of all lines that were ended since the last call, in order.

        Args:
            to_the_end: nothing more will come, so that a line without its end counts, too.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            facts = self.path.stat()
            if (facts.st_dev, facts.st_ino) != self._file or facts.st_size < self._offset:
                self._file = (facts.st_dev, facts.st_ino)
                self._offset = self._line = 0
            stream.seek(self._offset)
            content = stream.read()
        if to_the_end and not content.endswith(b"\n"):
            content += b"\n"
        ended = content[: content.rfind(b"\n") + 1]
        lines = ended.split(b"\n")[:-1]
        if self._offset == 0 and lines:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        self._offset += len(ended)
        found = (self._signal(line) for line in lines)
        return [row for row in found if row is not None]

    def take_problems(self) -> list[str]:
        """What was wrong with lines that were passed over since the last call."""
        taken, self._problems = self._problems.found, Problems()
        return taken

    def _signal(self, line: bytes) -> UserSignal | None:
        self._line += 1
        if not line.strip():
            return None
        place = f"{self.path}, line {self._line}"
        try:
            value = value_of(line)
        except ValueError as error:
            self._problems.add(unreadable_row(place, error))
            return None
        return signal_of(value, place, self._problems)
