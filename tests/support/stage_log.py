"""What stages in replicas write down as it happens, by the clock that all processes share."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

WITHIN_S: Final = 60.0


class StageEvent(NamedTuple):
    """One line."""

    at_s: float
    name: str
    subject: str
    """A prompt, or the seed of a picture."""


class StageLog:
    """Appends to a file of its own process."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"{time.monotonic_ns()}.log").open("a", buffering=1)

    def tell(self, name: str, subject: object = "") -> None:
        self._file.write(f"{time.monotonic()!r}\t{name}\t{subject}\n")


@dataclass(frozen=True)
class StageLogs:
    """The files of all processes."""

    folder: Path

    def read(self) -> list[StageEvent]:
        """Return all that was written, in order."""
        lines = [line for file in self.folder.iterdir() for line in file.read_text().splitlines()]
        rows = (line.split("\t") for line in lines)
        return sorted(StageEvent(float(at), name, subject) for at, name, subject in rows)

    def find(self, name: str, *, after_s: float, subject: str | None = None) -> StageEvent | None:
        """Return the first event of a name after a moment, of anything or of one subject."""
        for event in self.read():
            is_meant = subject is None or event.subject == subject
            if event.name == name and event.at_s > after_s and is_meant:
                return event
        return None

    def wait_for(self, name: str, *, after_s: float, subject: str | None = None) -> StageEvent:
        """Return the first such event as soon as it is there."""
        deadline = time.monotonic() + WITHIN_S
        while (event := self.find(name, after_s=after_s, subject=subject)) is None:
            assert time.monotonic() < deadline, f"no {name} of {subject} came"
            time.sleep(0.002)
        return event
