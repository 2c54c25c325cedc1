"""How a corpus is divided into shards; what is divided where does not depend on who works on it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from uer.data.corpus import LINE_END, LOOK_BACK, CorpusFile, read_blocks
from uer.data.shards import Shard, read_account, write_marker
from uer.json_files import read_json_object

SMALLEST_SHARD = 1 << 20
LARGEST_SHARD = 1 << 26
SHARDS_WANTED = 512
USUAL_EXPANSION = 4  # text is about so much larger than its compressed form


def usual_shard_bytes(files: list[CorpusFile]) -> int:
    """Small shards for even work, large ones so that a large corpus does not become a hundred thousand files."""
    text = sum(file.size * (USUAL_EXPANSION if file.compression else 1) for file in files)
    return min(max(text // SHARDS_WANTED, SMALLEST_SHARD), LARGEST_SHARD)


class ShardPlan:
    """The shards of a corpus, in its order.

    Plain files are divided by byte ranges, which each worker reads by itself; small ones that follow one another are
    put together. Compressed ones cannot be divided: they are decompressed here, in one stream, into block files that
    workers take; only about as many blocks exist at a time as there are workers.

    Attributes:
        shards: those met so far; all of them when `unfinished` has ended.
    """

    def __init__(self, files: list[CorpusFile], folder: Path, shard_bytes: int,
                 document_end: re.Pattern[bytes] = LINE_END):
        self._files = files
        self._document_end = document_end
        self._folder = folder
        self._shard_bytes = shard_bytes
        self.shards: list[Shard] = []

    def unfinished(self, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Every shard that still needs work.

        Args:
            progress: told (bytes of the corpus, whether this run works on them) for compressed files as they are read,
                and for plain ones where an earlier run has done the work.
        """
        for shard in self._all(progress):
            self.shards.append(shard)
            if read_account(self._folder, shard) is None:
                yield shard
            elif shard.path:
                Path(shard.path).unlink(missing_ok=True)
            else:
                progress(shard.stop - shard.start, False)

    def _all(self, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        small: list[CorpusFile] = []  # whole files that will be one shard
        for number, file in enumerate(self._files):
            fits = not file.compression and file.size + sum(other.size for other in small) <= self._shard_bytes
            if small and not fits:
                yield _together(number - len(small), small)
                small = []
            if file.compression:
                yield from self._blocks(number, file, progress)
            elif file.size > self._shard_bytes:
                yield from self._stretches(number, file)
            else:
                small.append(file)
        if small:
            yield _together(len(self._files) - len(small), small)

    def _stretches(self, number: int, file: CorpusFile) -> Iterator[Shard]:
        size = self._shard_bytes
        for index, start in enumerate(range(0, file.size, size)):
            yield Shard(number, index, file.path, start, min(start + size, file.size))

    def _blocks(self, number: int, file: CorpusFile, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Blocks of whole documents; a file that an earlier run has read whole is not read again if all is finished."""
        marker = self._folder / f"{number:06d}.end"
        known = self._known_blocks(number, file, marker)
        if known and all(read_account(self._folder, shard) for shard in known):
            progress(file.size, False)
            yield from known
            return
        stops = []
        for shard in self._decompressed(number, file, progress):
            stops.append(shard.stop)
            yield shard
        write_marker(marker, {"stops": stops})

    def _known_blocks(self, number: int, file: CorpusFile, marker: Path) -> list[Shard]:
        try:
            stops = read_json_object(marker)["stops"]
        except (ValueError, KeyError):
            return []
        return [self._block(number, index, file, start, stop)
                for index, (start, stop) in enumerate(zip([0, *stops], stops))]

    def _block(self, number: int, index: int, file: CorpusFile, start: int, stop: int) -> Shard:
        return Shard(number, index, file.path, start, stop, str(self._folder / f"{number:06d}-{index:06d}.text"))

    def _decompressed(self, number: int, file: CorpusFile, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Write block files that end at the first document's end once they hold the bytes of a shard."""
        index = start = position = read = 0
        tail = b""  # the last bytes of the block file in the making
        for data, place in read_blocks(file):
            progress(place - read, True)
            read = place
            while data:
                end = self._first_end(tail, data, max(start + self._shard_bytes - position, 1))
                piece, data = (data[:end], data[end:]) if end else (data, b"")
                shard = self._block(number, index, file, start, position + len(piece))
                _append(shard.path, piece, new=position == start)
                position = shard.stop
                tail = (tail + piece)[-LOOK_BACK:]
                if end:
                    yield shard
                    index, start, tail = index + 1, position, b""
        if position > start:
            yield self._block(number, index, file, start, position)

    def _first_end(self, tail: bytes, data: bytes, least: int) -> int:
        """Behind the first end of a document that lies `least` bytes or more in `data`; 0 where there is none.

        Args:
            tail: what stands before `data`, where the end may have begun.
        """
        for match in self._document_end.finditer(tail + data, max(len(tail) + least - LOOK_BACK, 0)):
            if match.end() - len(tail) >= least:
                return match.end() - len(tail)
        return 0


def _together(number: int, files: list[CorpusFile]) -> Shard:
    """One shard of whole files; the first has this number."""
    followers = tuple((file.path, file.size) for file in files[1:])
    return Shard(number, 0, files[0].path, 0, sum(file.size for file in files), followers=followers)


def _append(path: str, data: bytes, new: bool) -> None:
    with open(path, "wb" if new else "ab") as file:
        file.write(data)


def lines_before(file: CorpusFile, position: int) -> int:
    """How many lines end in the first `position` bytes of the file's text."""
    lines = 0
    for data, _ in read_blocks(file):
        lines += data.count(b"\n", 0, position)
        position -= len(data)
        if position <= 0:
            break
    return lines
