"""Samples compressed at a bounded cost, whatever they are: RFC 1951."""

from collections.abc import Mapping

from zlib_ng import zlib_ng

from service.output.chunks import Chunk

RAW_WINDOW_BITS = -15
# Of few values: run lengths are all there is.
RUN_LENGTHS: Mapping[str, int] = {"level": 1, "strategy": zlib_ng.Z_RLE}
# Lower ones make files a fifth larger, higher ones take half as long again.
MATCHES: Mapping[str, int] = {"level": 3, "strategy": zlib_ng.Z_DEFAULT_STRATEGY}
# Where matches leave more of the samples than this, looking for them takes four times as long as
# run lengths do, and finds next to nothing.
MAX_SHARE_LEFT = 0.5
# So much is looked at before that is known, and so much is written by run lengths until matches are
# tried again.
TRIED_BYTES = 2**16
UNTRIED_BYTES = 2**20


class Deflater:
    """One stream, piece by piece."""

    def __init__(self, how: Mapping[str, int] = MATCHES) -> None:
        """Where `how` are matches, they are given up as long as they do not pay."""
        self._is_adaptive = how is MATCHES
        self._begin(how)

    def compress(self, piece: Chunk) -> bytes:
        """What is known of the stream with the next bytes, which should not be many."""
        view = memoryview(piece)
        starts = range(0, len(view), TRIED_BYTES)
        return b"".join([self._compress(view[start : start + TRIED_BYTES]) for start in starts])

    def _compress(self, piece: memoryview) -> bytes:
        packed = self._compressor.compress(piece)
        self._num_bytes += len(piece)
        self._num_packed += len(packed)
        if not (self._is_adaptive and self._is_over()):
            return packed
        # Another compressor goes on where the last one's bytes end.
        packed += self._compressor.flush(zlib_ng.Z_SYNC_FLUSH)
        self._begin(RUN_LENGTHS if self._how is MATCHES else MATCHES)
        return packed

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._compressor.flush()

    def _begin(self, how: Mapping[str, int]) -> None:
        self._how = how
        self._compressor = zlib_ng.compressobj(wbits=RAW_WINDOW_BITS, **how)
        self._num_bytes = self._num_packed = 0

    def _is_over(self) -> bool:
        if self._how is RUN_LENGTHS:
            return self._num_bytes >= UNTRIED_BYTES
        return (
            self._num_bytes >= TRIED_BYTES and self._num_packed > MAX_SHARE_LEFT * self._num_bytes
        )
