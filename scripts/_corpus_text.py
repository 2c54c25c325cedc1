"""The text of a corpus for the vocabulary scripts: piece by piece, from files, globs, folders, plain or compressed."""

from collections.abc import Iterator

from uer.data.corpus import find_files, read_blocks
from uer.data.line_cleaner import BYTE_ORDER_MARK, LineCleaner, chunks
from uer.tokenizers import SpaceTokenizer


def read_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """Pieces of about a megabyte, each of whole lines that end in "\\n"; only a longer line is cut, at a space.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        UserError: a path is missing, the corpus is empty, or compressed data is damaged.
    """
    for file in find_files(paths):
        cleaner = LineCleaner(file.path)
        blocks = (block for block, _ in read_blocks(file))
        for number, (data, unfinished) in enumerate(chunks(blocks, SpaceTokenizer.line_cuts)):
            yield cleaner.clean(data if number else data.removeprefix(BYTE_ORDER_MARK), unfinished)
