"""Turns a request's image references into checked bytes.

A reference is a data URL or an http(s) URL. What an image is, its bytes say: a declared type is
only compared, never believed. Pillow reads headers and block structure here and never decodes
pixels; the encode stage does that. So a file whose compressed pixels are damaged inside passes,
and one that is cut short, of another type or too large does not.

Small images (the usual case) are checked in place, in tens of microseconds; larger ones in a few
threads of our own, so that the event loop never stalls for them.
"""

import asyncio
import binascii
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL.GifImagePlugin import GifImageFile
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from epd_gateway.errors import InvalidImage
from epd_gateway.media_fetch import ByteBudget, ImageFetcher
from epd_gateway.settings import MediaLimits

_INLINE_BYTES: Final = 256 * 1024
_THREADS: Final = 2
_MAX_DATA_URL_HEAD: Final = 128
_BASE64_SLICE: Final = 256 * 1024  # a multiple of 4; lets other threads run in between
_PREFIX_BYTES: Final = 12  # shows the type of any image

_ALIASES: Final = {"image/jpg": "image/jpeg"}
_PLUGINS: Final[dict[str, type[ImageFile]]] = {
    "image/gif": GifImageFile,
    "image/jpeg": JpegImageFile,
    "image/png": PngImageFile,
    "image/webp": WebPImageFile,
}
_ACCEPTED: Final = "PNG, JPEG, WebP or GIF"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where a request points to an image.

    Attributes:
        url: A data, http or https URL.
        param: Path of the field that holds it, such as `messages[0].content[1].image_url.url`.
    """

    url: str
    param: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose header was checked and whose end is there.

    Attributes:
        data: The encoded image, untouched.
        media_type: One of image/png, image/jpeg, image/webp, image/gif; from the bytes.
        width: Pixels.
        height: Pixels.
        sha256_hex: Hash of `data`; equal images have equal hashes on every gateway.
    """

    data: bytes
    media_type: str
    width: int
    height: int
    sha256_hex: str


class MediaResolver:
    """Resolves image references under the limits of `MediaLimits`."""

    def __init__(self, limits: MediaLimits, fetcher: ImageFetcher | None = None) -> None:
        """Make the threads and, unless given, the fetcher. Call inside a running event loop."""
        self._limits = limits
        self._fetcher = fetcher or ImageFetcher(limits)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    def obey(self, limits: MediaLimits) -> None:
        """Take images within these limits from the next request on."""
        self._limits = self._fetcher.limits = limits

    async def close(self) -> None:
        """Close kept connections and threads."""
        await self._fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, references: Sequence[ImageReference]) -> list[Image]:
        """Return the images of `references`, in order; they are resolved side by side.

        Raises:
            InvalidImage: One is malformed, truncated, too large or of a wrong type, or there are
                too many.
            ImageUrlRefused: Policy forbids one's URL.
            ImageNotFetched: One's URL cannot be read.
        """
        limits = self._limits
        if len(references) > limits.max_images:
            raise InvalidImage(
                f"{len(references)} images; at most {limits.max_images} are accepted",
                param=references[limits.max_images].param,
            )
        if all(is_data_url(reference.url) for reference in references) and (
            sum(len(reference.url) for reference in references) <= _INLINE_BYTES
        ):
            return [decode_data_url(reference, limits) for reference in references]
        budget = ByteBudget(limits.max_fetched_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._resolve_one(r, budget)) for r in references]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _resolve_one(self, reference: ImageReference, budget: ByteBudget) -> Image:
        limits = self._limits
        if is_data_url(reference.url):
            return await self._in_thread(lambda: decode_data_url(reference, limits))
        data = await self._fetcher.fetch(reference.url, reference.param, budget)
        if len(data) <= _INLINE_BYTES:
            return inspect_image(data, reference.param, limits)
        return await self._in_thread(lambda: inspect_image(data, reference.param, limits))

    async def _in_thread(self, work: Callable[[], Image]) -> Image:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def is_data_url(url: str) -> bool:
    """Return whether `url` carries its content."""
    return url[:5].lower() == "data:"


def decode_data_url(reference: ImageReference, limits: MediaLimits) -> Image:
    """Return the image inside a data URL, `data:image/png;base64,…`.

    Raises:
        InvalidImage: It is malformed, truncated, too large, or not of the type it declares.
    """
    url, param = reference.url, reference.param
    comma = url.find(",", 0, _MAX_DATA_URL_HEAD)
    declared, *options = url[5 : max(comma, 5)].lower().split(";")
    declared = _ALIASES.get(declared, declared)
    if comma < 0 or "base64" not in options:
        raise InvalidImage("a data URL must read data:image/TYPE;base64,DATA", param=param)
    if declared not in _PLUGINS:
        raise InvalidImage(f"the data URL is not declared as {_ACCEPTED}", param=param)
    if (len(url) - comma - 1) // 4 * 3 > limits.max_image_bytes + 2:
        raise InvalidImage(f"the image is over {limits.max_image_bytes} bytes", param=param)
    image = inspect_image(_decode_base64(url, comma + 1, param), param, limits)
    if image.media_type != declared:
        raise InvalidImage(
            f"the data URL says {declared}, but the bytes are {image.media_type}", param=param
        )
    return image


def inspect_image(data: bytes, param: str, limits: MediaLimits) -> Image:
    """Return `data` with what its header says, if it is a whole image within the limits.

    Raises:
        InvalidImage: It is not.
    """
    if len(data) > limits.max_image_bytes:
        raise InvalidImage(f"the image is over {limits.max_image_bytes} bytes", param=param)
    media_type = _sniff(data)
    if media_type is None:
        raise InvalidImage(f"the data is no {_ACCEPTED} image", param=param)
    try:
        with _PLUGINS[media_type](BytesIO(data)) as image:
            width, height = image.size
            if width * height > limits.max_image_pixels:
                raise DecompressionBombError(f"{width} x {height}")
            whole = _is_whole(image, data)
    except DecompressionBombError:  # ours, or Pillow's own before it allocates a canvas
        most = limits.max_image_pixels
        raise InvalidImage(f"the image has more than {most} pixels", param=param) from None
    except (OSError, SyntaxError, ValueError):
        whole = False
    if not whole:
        raise InvalidImage(f"the {media_type} data is damaged or cut short", param=param)
    return Image(data, media_type, width, height, hashlib.sha256(data).hexdigest())


def _sniff(data: bytes) -> str | None:
    prefix = data[:_PREFIX_BYTES]
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if prefix.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return "image/webp"
    return None


def _is_whole(image: ImageFile, data: bytes) -> bool:
    """Return whether `data` holds the image to its end, without decoding it."""
    if isinstance(image, PngImageFile):
        image.verify()  # reads every chunk and its checksum
        return True
    if isinstance(image, JpegImageFile):
        # Pillow stands behind the header of the first scan. Inside scans 0xFF is always stuffed,
        # so the next end marker is the image's own, not one of a thumbnail.
        return image.fp is not None and data.find(b"\xff\xd9", image.fp.tell()) >= 0
    if isinstance(image, GifImageFile):
        return _gif_frame_is_whole(data, image.tile[0].offset)
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)


def _gif_frame_is_whole(data: bytes, offset: int) -> bool:
    """Return whether the chain of blocks of the first frame, at `offset`, ends inside `data`."""
    while offset < len(data):
        if data[offset] == 0:
            return True
        offset += 1 + data[offset]
    return False


def _decode_base64(text: str, start: int, param: str) -> bytes:
    """Return the bytes of the base64 from `start` on; slices, because a slice holds all threads."""
    parts = []
    for begin in range(start, len(text), _BASE64_SLICE):
        piece = text[begin : begin + _BASE64_SLICE]
        try:
            part = binascii.a2b_base64(piece, strict_mode=True)
        except ValueError:
            raise InvalidImage("the data URL's base64 is malformed", param=param) from None
        is_last = begin + _BASE64_SLICE >= len(text)
        if not is_last and len(part) != _BASE64_SLICE // 4 * 3:  # padding in the middle
            raise InvalidImage("the data URL's base64 is malformed", param=param)
        parts.append(part)
    return b"".join(parts)
