"""The directories of a TIFF, walked before a decoder sees the file: their cost is bounded."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nuclei.errors import InvalidImage
from nuclei.imaging.decoding.decoded import File

MAX_PAGES = 10_000
# tifffile reads no more either.
MAX_TAGS = 4096
MAX_ALL_TAGS = 500_000
# Tiles of 64 x 64 pixels in the largest frame; each costs time whatever its size.
MAX_SEGMENTS = 2**17
MAX_DESCRIPTION_BYTES = 2**24

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES.update({16: 8, 17: 8, 18: 8})
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}

_SUBFILE_TYPE, _OLD_SUBFILE_TYPE = 254, 255
_DESCRIPTION = 270
_ORIENTATION = 274
_NEEDED = (_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _ORIENTATION)
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2


@dataclass(frozen=True)
class Directory:
    """One page of a TIFF, or a thumbnail or mask of one.

    Attributes:
        index: in the file.
        numbers: the first value of each tag that is needed here, by code.
        value_bytes: length of the values of all tags.
    """

    index: int
    numbers: dict[int, int]
    value_bytes: int

    @property
    def is_page(self) -> bool:
        """Whether it holds pixels of full resolution, and no mask of transparency."""
        kind = self.numbers.get(_SUBFILE_TYPE, 0)
        old_kind = self.numbers.get(_OLD_SUBFILE_TYPE, 0)
        return not (kind & (_REDUCED | _MASK) or old_kind == _OLD_REDUCED)

    @property
    def orientation(self) -> int:
        return self.numbers.get(_ORIENTATION, 1)


@dataclass(frozen=True)
class Directories:
    """The directories of a file.

    Attributes:
        pages: those that are no thumbnails and no masks.
        count: of all.
        is_cut: whether the file names a further one beyond its end.
    """

    pages: list[Directory]
    count: int
    is_cut: bool


def directories(data: File) -> Directories:
    """Walk the directories of a TIFF or BigTIFF.

    Raises:
        InvalidImage: more of something than any writer makes.
        ValueError: damaged.
    """
    found: list[Directory] = []
    is_cut = False
    listed_bytes = 0
    for directory in _walk(data):
        if directory is None:
            is_cut = True
            break
        listed_bytes += directory.value_bytes
        found.append(directory)
        if len(found) > MAX_PAGES:
            raise InvalidImage(
                f"the TIFF holds more than {MAX_PAGES} planes; save the plane to segment"
            )
    # Writers store each value once, but for small ones that pages share.
    if listed_bytes > 4 * len(data) + 2**20:
        raise InvalidImage(
            "the tags of the TIFF name more values than the file holds: save it again"
        )
    pages = [directory for directory in found if directory.is_page]
    if not pages:
        raise ValueError("it has no pixels")
    return Directories(pages, len(found), is_cut)


def _walk(data: File) -> Iterator[Directory | None]:
    """Each directory; None at the end where the next one is beyond the end of the file."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    count, entry, link = ("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")
    inline = struct.calcsize("=" + link)
    value_at = struct.calcsize("=" + entry) - inline
    first_at = 8 if is_big else 4
    if len(data) < first_at + inline:
        raise ValueError("it ends within its header")
    (position,) = struct.unpack_from(order + link, data, first_at)
    seen: set[int] = set()
    all_tags = 0
    while position:
        if position in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(position)
        start = position + struct.calcsize("=" + count)
        n_tags = struct.unpack_from(order + count, data, position)[0] if start <= len(data) else 0
        end = start + n_tags * struct.calcsize("=" + entry)
        if not 0 < n_tags <= MAX_TAGS or end + inline > len(data):
            if len(seen) == 1:
                raise ValueError("its first directory cannot be read")
            yield None
            return
        all_tags += n_tags
        if all_tags > MAX_ALL_TAGS:
            raise InvalidImage(f"the TIFF has more than {MAX_ALL_TAGS} tags; save a plane of it")
        numbers: dict[int, int] = {}
        value_bytes = 0
        for number, (code, kind, length, value) in enumerate(
            struct.iter_unpack(order + entry, data[start:end])
        ):
            size = _SIZES.get(kind, 0) * length
            at = start + number * (value_at + inline) + value_at if size <= inline else value
            if not size or at + size > len(data):
                continue
            _check_length(code, length)
            value_bytes += size
            if code in _NEEDED and kind in _INTEGERS and code not in numbers:
                (numbers[code],) = struct.unpack_from(order + _INTEGERS[kind], data, at)
        yield Directory(len(seen) - 1, numbers, value_bytes)
        (position,) = struct.unpack_from(order + link, data, end)


# Their values become Python's numbers, of ten times the memory: bits and format of a sample,
# offsets and lengths of strips, tiles, SubIFDs and JPEG streams, resolutions, extra samples.
_LISTS = frozenset((258, 273, 279, 282, 283, 324, 325, 330, 338, 339, 513, 514, 530, 531, 50838))
# MetaMorph's entries, and its planes, for each of which an entry may name values.
_METAMORPH = {33628: 1024, 33629: MAX_PAGES}


def _check_length(code: int, length: int) -> None:
    if length > _METAMORPH.get(code, length):
        raise InvalidImage(f"the STK file has {length} planes or tags; save one of its planes")
    if code in _LISTS and length > MAX_SEGMENTS:
        raise InvalidImage(
            f"the TIFF is cut into more than {MAX_SEGMENTS} strips or tiles; save it with larger "
            "ones"
        )
    if code == _DESCRIPTION and length > MAX_DESCRIPTION_BYTES:
        raise InvalidImage(
            f"the TIFF has metadata of more than {MAX_DESCRIPTION_BYTES} bytes; save the plane to "
            "segment without them"
        )


def exif_orientation(block: bytes | memoryview) -> int:
    """Orientation that an EXIF block (a TIFF without pixels) asks for; 1 when it does not."""
    try:
        directory = next(_walk(bytes(block)), None)
    except (InvalidImage, ValueError, struct.error):
        return 1
    return 1 if directory is None else directory.orientation
