"""Divides a corpus into shards, which worker processes turn into column files. The division depends on the corpus and
the size of a shard, not on the number of processes.

With shards of 10 bytes, where every line is a document:

    a.txt   4 bytes                 shard 0: a.txt and b.txt, whole files that follow one another
    b.txt   5 bytes
    c.txt   25 bytes                shards 1 to 3: the documents that begin in bytes 0-9, 10-19 and 20-24 of c.txt
    d.gz    25 bytes of text        shards 4, 5, ...: blocks of decompressed text that end with a document
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from uer.data.corpus import LINE_END, LOOK_BACK, CorpusFile, document_boundary, read_blocks, stretch, whole_lines
from uer.data.shards import Shard, read_account, write_marker
from uer.json_files import read_json_object

SMALLEST_SHARD = 1 << 20
LARGEST_SHARD = 1 << 26
SHARDS_WANTED = 512
LENT_BYTES = 1 << 18
USUAL_EXPANSION = 4  # how many times as large as a compressed file its text usually is


def usual_shard_bytes(files: list[CorpusFile]) -> int:
    """The size of a shard in bytes of text: about 1/512 of the corpus, at least 1 MiB and at most 64 MiB.

    Small shards keep all processes busy to the end; large ones avoid a hundred thousand files for a large corpus.
    """
    text = sum(file.size * (USUAL_EXPANSION if file.compression else 1) for file in files)
    return min(max(text // SHARDS_WANTED, SMALLEST_SHARD), LARGEST_SHARD)


class ShardPlan:
    """The shards of a corpus, in its order.

    Plain files are divided by byte ranges, which the workers read themselves; small files that follow one another are
    one shard. Compressed files cannot be divided: they are decompressed here, in one stream, into block files for the
    workers. Only about as many blocks exist at a time as there are workers.

    Attributes:
        shards: the shards that `unfinished` has passed so far; all of them once it has ended.
    """

    def __init__(self, files: list[CorpusFile], folder: Path, shard_bytes: int,
                 document_end: re.Pattern[bytes] = LINE_END, lends: bool = False):
        """
        Args:
            files: the corpus.
            folder: the work folder.
            shard_bytes: the size of a shard.
            document_end: matches what stands between two documents.
            lends: shards may need text outside of them, see `text_outside`.
        """
        self._files = files
        self._lends = lends
        self._document_end = document_end
        self._folder = folder
        self._shard_bytes = shard_bytes
        self.shards: list[Shard] = []

    def unfinished(self, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Yield the shards that no earlier run has finished.

        Args:
            progress: called with (number of bytes of the corpus, whether this run processes them): for compressed files
                as they are read, for plain files if an earlier run has processed them.
        """
        for shard in self._all(progress):
            self.shards.append(shard)
            if read_account(self._folder, shard) is None:
                yield shard
            elif shard.path:  # a finished block that has been decompressed once more
                shard.remove_block()
            else:
                progress(shard.stop - shard.start, False)

    def _all(self, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Every shard, in the order of the corpus."""
        small, room = [], self._shard_bytes  # whole files that will be one shard, and how many bytes it can still take
        for number, file in enumerate(self._files):
            if small and (file.compression or file.size > room):
                yield _together(number - len(small), small)
                small, room = [], self._shard_bytes
            if file.compression:
                yield from self._blocks(number, file, progress)
            elif file.size > self._shard_bytes:
                yield from self._stretches(number, file)
            else:
                small.append(file)
                room -= file.size
        if small:
            yield _together(len(self._files) - len(small), small)

    def _stretches(self, number: int, file: CorpusFile) -> Iterator[Shard]:
        """The shards of plain file `number`: byte ranges, the last one shorter."""
        size = self._shard_bytes
        for index, start in enumerate(range(0, file.size, size)):
            yield Shard(number, index, file.path, start, min(start + size, file.size))

    def _blocks(self, number: int, file: CorpusFile, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """The shards of compressed file `number`: blocks of whole documents.

        A marker holds the ends of the blocks once the file has been read to its end. If an earlier run has finished all
        of them, the file is not read again.
        """
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
        """The blocks by the marker of an earlier run; [] without a marker. Ends [8, 20] are the blocks 0-8 and 8-20."""
        try:
            stops = read_json_object(marker)["stops"]
        except (ValueError, KeyError):
            return []
        return [self._block(number, index, file, start, stop)
                for index, (start, stop) in enumerate(zip([0, *stops], stops))]

    def _block(self, number: int, index: int, file: CorpusFile, start: int, stop: int) -> Shard:
        return Shard(number, index, file.path, start, stop, str(self._folder / f"{number:06d}-{index:06d}.text"))

    def _decompressed(self, number: int, file: CorpusFile, progress: Callable[[int, bool], None]) -> Iterator[Shard]:
        """Write block files: a block ends with the document in which it reaches the size of a shard.

        Shards of 10 bytes, documents of 6 bytes: the blocks are 0-12, 12-24, 24-36, ...
        """
        index = start = position = read = 0  # the block's number and first byte; bytes of text, of the file, so far
        tail = b""  # the last bytes of the unfinished block: the end of a document may begin there
        for data, file_position in read_blocks(file):
            progress(file_position - read, True)
            read = file_position
            while data:
                # `end` is where the block ends in `data`; 0 if it does not end there.
                end = self._first_end(tail, data, max(start + self._shard_bytes - position, 1))
                piece, data = (data[:end], data[end:]) if end else (data, b"")
                shard = self._block(number, index, file, start, position + len(piece))
                _append(shard.path, piece, new=position == start)
                position = shard.stop
                tail = (tail + piece)[-LOOK_BACK:]
                if end:
                    if self._lends:
                        shard.next_path.write_bytes(data[:LENT_BYTES])
                    yield shard
                    index, start, tail = index + 1, position, b""
        if position > start:
            yield self._block(number, index, file, start, position)

    def _first_end(self, tail: bytes, data: bytes, least: int) -> int:
        """The first position in `data`, from `least` on, at which a document has ended; 0 if there is none.

        Args:
            tail: the bytes before `data`: what separates two documents, such as a blank line, may begin there.
        """
        for match in self._document_end.finditer(tail + data, max(len(tail) + least - LOOK_BACK, 0)):
            if match.end() - len(tail) >= least:
                return match.end() - len(tail)
        return 0


def _together(number: int, files: list[CorpusFile]) -> Shard:
    """One shard of whole files; `number` is that of the first file."""
    followers = tuple((file.path, file.size) for file in files[1:])
    return Shard(number, 0, files[0].path, 0, sum(file.size for file in files), followers=followers)


def _append(path: str, data: bytes, new: bool) -> None:
    with open(path, "wb" if new else "ab") as file:
        file.write(data)


def lines_before(file: CorpusFile, shard: Shard, document_end: re.Pattern[bytes] = LINE_END) -> int:
    """How many lines of the file's text stand before the first document of a shard."""
    lines, position = 0, shard.start
    if not file.compression:  # compressed files are divided between documents
        with open(file.path, "rb") as text:
            position = document_boundary(text, position, document_end)
    for data, _ in read_blocks(file):
        lines += data.count(b"\n", 0, position)
        position -= len(data)
        if position <= 0:
            break
    return lines


def text_outside(files: Sequence[CorpusFile], shard: Shard, document_end: re.Pattern[bytes] = LINE_END) -> bytes:
    """The first lines of a document that is not in the shard: about `LENT_BYTES`, b"" where there is no other.

    It is the document behind the shard, or else the first one of a later file, of an earlier file, of the shard's file.
    """
    for blocks in _texts_outside(files, shard, document_end):
        text = b""
        for block in blocks:
            text += block
            if len(text) >= LENT_BYTES:
                break
        if text.strip():
            return whole_lines(text[:LENT_BYTES])
    return b""


def _texts_outside(files: Sequence[CorpusFile], shard: Shard,
                   document_end: re.Pattern[bytes]) -> Iterator[Iterator[bytes]]:
    own = files[shard.file]
    if shard.path:
        yield iter([shard.next_path.read_bytes()] if shard.next_path.exists() else [])
    elif not shard.followers:
        yield stretch(own.path, shard.stop, own.size, document_end)
    for file in (*files[shard.file + 1 + len(shard.followers):], *files[:shard.file]):
        yield (block for block, _ in read_blocks(file))
    if shard.start:
        yield (block for block, _ in read_blocks(own))
