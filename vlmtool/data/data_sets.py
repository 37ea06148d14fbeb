"""Where public data sets come from and where they go: `sources.json`, or another list of the same form.

    {"files": {NAME: {url, to: PATH | unpack: FOLDER, only?, size?, sha256?, md5?} | {to, by_hand: what to do}},
     "sets": {NAME: {what, page, licence, files: [NAME, …]}}}

Paths are below one folder for all data. An archive is called like the folder that it is unpacked into, and deleted
then; so a folder without its archive beside it is complete.
"""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vlmtool.data.formats.llava import is_inside
from vlmtool.utils.download import Progress, download
from vlmtool.utils.errors import DataError, UsageError, did_you_mean, message_lines
from vlmtool.utils.files import read_json, remove
from vlmtool.utils.unpack import unpack

SHIPPED = Path(__file__).parent / "sources.json"
_ARCHIVES = (".tar.gz", ".tar", ".tgz", ".zip")

State = Literal["there", "fetch", "unpack", "by hand"]


class Source(BaseModel):
    """One file: an address, or what a person has to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    to: str | None = None
    unpack: str | None = None
    only: str = "*"
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    by_hand: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "Source":
        if (self.url is None) == (self.by_hand is None):
            raise ValueError("give either url or by_hand")
        if (self.to is None) == (self.unpack is None) or (self.by_hand and self.to is None):
            raise ValueError("give either to or unpack; what is done by hand has a place (to)")
        if not is_inside(self.place) or "\\" in self.place:
            raise ValueError(f"'{self.place}' is absolute or leaves the folder")
        return self

    @property
    def place(self) -> str:
        """The file or folder that is there in the end."""
        return self.to or self.unpack or ""

    @property
    def file(self) -> str:
        """The file that is downloaded: an archive has the name of its folder."""
        if self.unpack is None:
            return self.place
        name = PurePosixPath(urlsplit(self.url or "").path).name
        return self.unpack + next((suffix for suffix in _ARCHIVES if name.endswith(suffix)), ".zip")

    @property
    def hashes(self) -> dict[str, str]:
        """What was published, by algorithm."""
        return {name: digest for name, digest in (("sha256", self.sha256), ("md5", self.md5)) if digest}


class DataSet(BaseModel):
    """What belongs together under one name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    page: str
    licence: str
    files: list[str]


class Sources(BaseModel):
    """The whole list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, Source]
    sets: dict[str, DataSet]

    @model_validator(mode="after")
    def _check(self) -> "Sources":
        unknown = {name for data_set in self.sets.values() for name in data_set.files} - set(self.files)
        if unknown:
            raise ValueError(f"no such file: {', '.join(sorted(unknown))}")
        return self

    def of(self, name: str) -> tuple[DataSet, list[Source]]:
        """A data set and its files.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self.sets:
            raise UsageError(
                f"{name}: no such data set.{did_you_mean(name, self.sets)}\nThere are: {', '.join(self.sets)}."
            )
        return self.sets[name], [self.files[file] for file in self.sets[name].files]


class Step(NamedTuple):
    """What is to be done about one file."""

    source: Source
    state: State


def read_sources(path: Path = SHIPPED) -> Sources:
    """The list of a file.

    Raises:
        UsageError: it is missing, or not of this form.
    """
    try:
        return Sources.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the list"
        raise UsageError(f"{path}: {where}: {first['msg']}.\nSee docs/data.md for the form.") from error
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read: {message_lines(error)[0]}.\nGive a list as docs/data.md tells."
        ) from error


def plan(sources: list[Source], root: Path) -> list[Step]:
    """What is there already, and what is to be done."""
    return [Step(source, _state(source, root)) for source in sources]


def carry_out(step: Step, root: Path, allow_local: bool = False, progress: Progress = lambda done, total: None) -> None:
    """Download and unpack one file.

    Raises:
        DataError: it cannot be had, or is not what was published; the message says what to do by hand.
    """
    source, file = step.source, root / step.source.file
    if step.state == "fetch":
        _told(source, root, lambda: download(
            source.url or "", file, source.size, source.hashes, allow_local, progress
        ))  # fmt: skip
    if source.unpack is not None and step.state in ("fetch", "unpack"):
        unpack(file, root / source.unpack, source.only)
        remove(file)


def _told(source: Source, root: Path, work: Callable[[], None]) -> None:
    """Do it; an error says where the file goes that a person downloads."""
    try:
        work()
    except DataError as error:
        lines = message_lines(error)
        raise DataError(
            f"{lines[0]}\n"
            f"Run it again to go on; or download that address by hand to {root / source.file} and run it then."
        ) from error


def _state(source: Source, root: Path) -> State:
    place, file = root / source.place, root / source.file
    if source.by_hand is not None:
        return "there" if _is_filled(place) else "by hand"
    if source.unpack is None:
        return "there" if place.is_file() and source.size in (None, place.stat().st_size) else "fetch"
    if file.is_file():
        return "unpack"
    return "there" if _is_filled(place) else "fetch"


def _is_filled(place: Path) -> bool:
    return place.is_file() or (place.is_dir() and any(place.iterdir()))
