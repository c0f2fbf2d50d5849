"""The sizes and the number of the frames in a piece of AV1 video, which is how an AVIF stores a picture.

A decoder follows these and not the boxes of the file around them: with a box that says 100 x 75 pixels it still decodes
the 20 million that the stream announces, and a picture may hide any number of frames before the one that is shown.
"""

from __future__ import annotations

from prefect_fanout.tasks.images.formats.structure import Data, check_parts, check_pixels
from prefect_fanout.tasks.images.options import ImageOptions

MAX_UNITS = 200_000
"""Units (OBUs) of a file: 10 for each frame of an animation of 10,000 with alpha."""

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_SEQUENCE_HEADER_BYTES = 512
"""Enough for the longest: 32 operating points of 89 bits."""


class Stream:
    """The units of one picture, or of one track, in order.

    Attributes:
        pixels: Pixels of the largest frame that the stream allows.
        frames: Frames, shown or not.
        passes: Pixels of all frames.
    """

    def __init__(self, options: ImageOptions) -> None:
        self.pixels = self.frames = self.passes = 0
        self._options = options

    def read(self, data: Data, begin: int, end: int, units: int) -> int:
        """Read the units of one sample, up to its end or to one that is not whole: a decoder stops there, too.

        Source: "AV1 Bitstream & Decoding Process Specification", sections 5.3 and 5.5; other bits as dav1d reads them.

        Args:
            data: What holds the sample.
            begin: Its position.
            end: The position behind it.
            units: Units that were read before.

        Returns:
            Units that are read by now.

        Raises:
            ContentError: There are too many units or pixels.
        """
        check_parts(units, "AVIF", "samples and units of AV1", MAX_UNITS)
        while begin < end:
            header = data[begin]
            begin += 2 if header & 4 else 1
            size = end - begin
            if header & 2:
                size, begin = _leb128(data, begin, end)
            if not 0 <= size <= end - begin:
                break
            units += 1
            check_parts(units, "AVIF", "samples and units of AV1", MAX_UNITS)
            kind = header >> 3 & 15
            if kind == _SEQUENCE_HEADER:
                self._sequence(data[begin : min(end, begin + _SEQUENCE_HEADER_BYTES)])
            elif kind in (_FRAME_HEADER, _FRAME):
                self.frames += 1
                self.passes += self.pixels
            begin += size
        return units

    def _sequence(self, header: bytes) -> None:
        """Read the size of the frames; those of a film may be as large as the bits of the size allow."""
        bits = _Bits(header)
        bits.skip(4)  # profile, still picture
        reduced = bits.take(1)
        if reduced:
            bits.skip(5)  # level
        else:
            _skip_operating_points(bits)
        width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
        width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
        check_pixels(width, height, self._options)
        self.pixels = max(self.pixels, width * height if reduced else 1 << width_bits + height_bits)


class _Bits:
    """Bits of some bytes, from the first on; zeros behind the last."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & (1 << count) - 1

    def skip(self, count: int) -> None:
        """Leave out some bits."""
        self._left -= count


def _skip_operating_points(bits: _Bits) -> None:
    """Skip the timing and the operating points of a header that is not reduced."""
    delay_bits = 0
    if bits.take(1):  # timing
        bits.skip(64)
        if bits.take(1):  # equal intervals, and their length as an Exp-Golomb code
            zeros = 0
            while not bits.take(1) and zeros < 32:
                zeros += 1
            bits.skip(zeros)
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.skip(42)
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.skip(12)
        if bits.take(5) > 7:  # level
            bits.skip(1)
        if delay_bits and bits.take(1):
            bits.skip(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.skip(4)


def _leb128(data: Data, begin: int, end: int) -> tuple[int, int]:
    """Return a number of up to 8 bytes and the position behind it; -1 where it does not end."""
    value = 0
    for number in range(min(8, end - begin)):
        byte = data[begin + number]
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, begin + number + 1
    return -1, begin
