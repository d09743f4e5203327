"""Images in data URLs: what is accepted, what is refused, and where the error points."""

import base64
import hashlib
import io
import random
import struct
import threading
import zlib
from typing import Any

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epd_gateway import media
from epd_gateway.errors import GatewayError, InvalidImage
from epd_gateway.media import Image, ImageReference, MediaResolver, decode_data_url, inspect_image
from epd_gateway.settings import MediaLimits

PARAM = "messages[0].content[1].image_url.url"
FORMATS = ["PNG", "JPEG", "WEBP", "GIF"]


def encoded(kind: str, size: tuple[int, int] = (16, 8), mode: str = "RGB", **options: Any) -> bytes:
    noise = random.Random(1).randbytes(size[0] * size[1] * len(mode))
    out = io.BytesIO()
    PIL.Image.frombytes(mode, size, noise).save(out, kind, **options)
    return out.getvalue()


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def decode(url: str, **limits: Any) -> Image:
    return decode_data_url(ImageReference(url, PARAM), MediaLimits(**limits))


def refusal(url: str, **limits: Any) -> str:
    with pytest.raises(InvalidImage) as caught:
        decode(url, **limits)
    assert (caught.value.status, caught.value.param) == (400, PARAM)
    return caught.value.message


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_is_returned_with_what_its_header_says(kind: str) -> None:
    data = encoded(kind)
    image = decode(data_url(data, f"image/{kind.lower()}"))
    assert image == Image(data, f"image/{kind.lower()}", 16, 8, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "head",
    ["data:image/jpg;base64", "DATA:Image/JPEG;BASE64", "data:image/jpeg;name=a.jpg;base64"],
)
def test_common_spellings_of_a_data_url_are_accepted(head: str) -> None:
    data = encoded("JPEG")
    assert decode(f"{head},{base64.b64encode(data).decode()}").media_type == "image/jpeg"


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png,iVBORw0KGgo=",
        "data:;base64," + base64.b64encode(encoded("PNG")).decode(),
        "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=",
        "data:text/html;base64,PGI+",
        "data:image/bmp;base64," + base64.b64encode(encoded("BMP")).decode(),
    ],
)
def test_other_kinds_of_data_urls_are_refused(url: str) -> None:
    assert "data URL" in refusal(url)


@pytest.mark.parametrize(
    "text",
    ["iVBORw0KGgo", "iVBOR===", "iVBO Rw0K", "iVBO\nRw0K", "iVB-Rw_K", "iVBOé", "%69VBO", "i=VB"],
)
def test_base64_is_taken_strictly(text: str) -> None:
    assert "base64 is malformed" in refusal(f"data:image/png;base64,{text}")


def test_padding_is_refused_in_the_middle_of_long_base64() -> None:
    first = base64.b64encode(bytes(256 * 1024 * 3 // 4 - 1)).decode()
    assert len(first) == 256 * 1024
    assert first.endswith("=")
    assert "base64 is malformed" in refusal(f"data:image/png;base64,{first}AAAA")


def test_long_base64_is_decoded_whole() -> None:
    data = encoded("PNG", (700, 700))
    assert len(data) > 3 * 256 * 1024
    assert decode(data_url(data, "image/png")).data == data


def test_a_declared_type_that_the_bytes_contradict_is_refused() -> None:
    message = refusal(data_url(encoded("PNG"), "image/jpeg"))
    assert message == "the data URL says image/jpeg, but the bytes are image/png"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n", encoded("BMP"), b"RIFF\0\0\0\0WAVE"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert "no PNG, JPEG, WebP or GIF" in refusal(data_url(data, "image/png"))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_image_is_refused(kind: str, kept: float) -> None:
    data = encoded(kind, (120, 90))
    data = data[
        : max(12, min(int(len(data) * kept), len(data) - 13))
    ]  # a PNG ends with 12 bytes that say so
    assert "damaged or cut short" in refusal(data_url(data, f"image/{kind.lower()}"))


def test_a_jpeg_cut_inside_its_picture_is_refused_though_its_thumbnail_is_whole() -> None:
    thumbnail = encoded("JPEG", (8, 8))
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    data = encoded("JPEG", (64, 64), exif=exif)
    assert data.count(b"\xff\xd9") == 2
    assert decode(data_url(data, "image/jpeg")).width == 64
    assert "cut short" in refusal(data_url(data[:-40], "image/jpeg"))


def test_what_follows_the_end_of_a_jpeg_does_not_matter() -> None:
    data = encoded("JPEG") + b"trailing notes of a camera \xff\xda"
    assert decode(data_url(data, "image/jpeg")).data == data


def test_a_progressive_jpeg_and_an_animated_gif_are_whole() -> None:
    jpeg = encoded("JPEG", (64, 64), progressive=True)
    assert decode(data_url(jpeg, "image/jpeg")).height == 64
    frames = [PIL.Image.new("L", (9, 9), shade) for shade in (0, 100, 200)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert decode(data_url(out.getvalue(), "image/gif")).width == 9


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 10] ^= 1
    assert "damaged" in refusal(data_url(bytes(data), "image/png"))


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    url = data_url(png_that_claims(60_000, 60_000), "image/png")
    assert refusal(url) == "the image has more than 64000000 pixels"


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_a_canvas_too_large_even_for_pillow_is_refused_alike(kind: str) -> None:
    data = bytearray(encoded(kind, lossless=True))
    if kind == "GIF":
        palette_bytes = 3 * 2 ** ((data[10] & 7) + 1)
        frame = 13 + palette_bytes + 5
        data[6:10] = data[frame : frame + 4] = b"\xff\xff\xff\xff"
    else:
        size = data.index(b"VP8L") + 9
        data[size : size + 4] = bytes([0xFF, 0xFF, 0xFF, 0x0F])  # 16384 x 16384
    assert "more than 64000000 pixels" in refusal(data_url(bytes(data), f"image/{kind.lower()}"))


def test_exactly_the_allowed_pixels_are_accepted() -> None:
    url = data_url(encoded("PNG", (16, 8)), "image/png")
    assert decode(url, max_image_pixels=128).width == 16
    assert "pixels" in refusal(url, max_image_pixels=127)


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    data = encoded("PNG")
    url = data_url(data, "image/png")
    assert decode(url, max_image_bytes=len(data)).data == data
    assert "over 100 bytes" in refusal(url, max_image_bytes=100)
    assert "over 100 bytes" in refusal("data:image/png;base64," + "?" * 200, max_image_bytes=100)


def test_one_byte_too_many_is_refused() -> None:
    data = encoded("PNG")
    url = data_url(data, "image/png")
    assert "over" in refusal(url, max_image_bytes=len(data) - 1)


async def test_images_keep_their_order() -> None:
    resolver = MediaResolver(MediaLimits())
    sizes = [(8, 8), (700, 700), (9, 9)]
    urls = [data_url(encoded("PNG", size), "image/png") for size in sizes]
    images = await resolver.resolve([ImageReference(url, "") for url in urls])
    await resolver.close()
    assert [(image.width, image.height) for image in images] == sizes


async def test_too_many_images_are_refused_and_the_first_extra_one_is_named() -> None:
    resolver = MediaResolver(MediaLimits(max_images=2))
    url = data_url(encoded("PNG"), "image/png")
    assert len(await resolver.resolve([ImageReference(url, "")] * 2)) == 2
    references = [ImageReference(url, f"messages[{i}]") for i in range(3)]
    with pytest.raises(InvalidImage, match="3 images; at most 2") as caught:
        await resolver.resolve(references)
    assert caught.value.param == "messages[2]"
    await resolver.close()


@pytest.mark.parametrize("side", [16, 700], ids=["small", "large"])
async def test_only_large_images_are_checked_in_a_thread(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note_thread(*arguments: Any) -> Image:
        seen.append(threading.current_thread() is threading.main_thread())
        return inspect_image(*arguments)

    monkeypatch.setattr(media, "inspect_image", note_thread)
    resolver = MediaResolver(MediaLimits())
    url = data_url(encoded("PNG", (side, side)), "image/png")
    await resolver.resolve([ImageReference(url, "")])
    await resolver.close()
    assert seen == [side == 16]


async def test_one_bad_image_among_large_ones_is_the_error() -> None:
    resolver = MediaResolver(MediaLimits())
    good = data_url(encoded("PNG", (700, 700)), "image/png")
    bad = ImageReference("data:image/png;base64,!", PARAM)
    with pytest.raises(InvalidImage) as caught:
        await resolver.resolve([ImageReference(good, ""), bad])
    assert caught.value.param == PARAM
    await resolver.close()


def outcome(data: bytes) -> int:
    try:
        inspect_image(data, PARAM, MediaLimits())
    except GatewayError as error:
        return error.status
    return 200


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata
@given(kind=st.sampled_from(FORMATS), data=st.data())
def test_damage_anywhere_is_accepted_or_a_400(kind: str, data: st.DataObject) -> None:
    image = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(image)) in (200, 400)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(kind=st.sampled_from(FORMATS), tail=st.binary(max_size=64))
def test_any_bytes_behind_a_known_prefix_are_accepted_or_a_400(kind: str, tail: bytes) -> None:
    assert outcome(encoded(kind)[:12] + tail) in (200, 400)
