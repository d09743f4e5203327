"""How many tokens an image is worth, read from its first bytes."""

import re

_PIXELS_PER_TOKEN_SIDE = 32
_BYTES_PER_TOKEN = 1024
_JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xfe])(..)", re.DOTALL)
_JPEG_NO_SIZE = {0xC4, 0xC8, 0xCC}


def image_tokens(content: bytes) -> int:
    """Return the embedding rows of an image: one for 32 x 32 pixels, at least one.

    Formats whose size cannot be told here count by their bytes; checking images is not this
    engine's job.
    """
    size = _png_size(content) or _jpeg_size(content)
    if size is None:
        return max(1, len(content) // _BYTES_PER_TOKEN)
    width, height = (max(1, round(pixels / _PIXELS_PER_TOKEN_SIDE)) for pixels in size)
    return width * height


def _png_size(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < 24:
        return None
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(b"\xff\xd8"):
        return None
    at = 2
    while segment := _JPEG_SEGMENT.match(content, at):
        marker = segment[1][0]
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NO_SIZE:
            height, width = (int.from_bytes(content[at + n : at + n + 2], "big") for n in (5, 7))
            return width, height
        at += 2 + int.from_bytes(segment[2], "big")
    return None
