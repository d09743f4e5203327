"""Pictures for the demo: drawn here, a different one for every seed, sent as data URLs."""

import base64
import io
import random
from typing import Any, Final

from PIL import Image, ImageDraw

COLOURS: Final = ("crimson", "darkorange", "gold", "seagreen", "royalblue", "purple", "black")
SHAPES: Final = ("circle", "square", "triangle")


def draw(seed: int, size: tuple[int, int] = (224, 160)) -> Image.Image:
    """Return a picture with a few coloured shapes."""
    rng = random.Random(seed)
    width, height = size
    picture = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(picture)
    for _ in range(rng.randint(2, 4)):
        side = rng.randint(height // 4, height // 2)
        left, top = rng.randint(0, width - side), rng.randint(0, height - side)
        right, bottom = left + side, top + side
        colour = rng.choice(COLOURS)
        match rng.choice(SHAPES):
            case "circle":
                canvas.ellipse((left, top, right, bottom), fill=colour)
            case "square":
                canvas.rectangle((left, top, right, bottom), fill=colour)
            case _:
                corners = [(left, bottom), (right, bottom), ((left + right) // 2, top)]
                canvas.polygon(corners, fill=colour)
    return picture


def data_url(content: bytes, media_type: str) -> str:
    """Return image bytes as a URL that carries them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def image_part(picture: Image.Image) -> dict[str, Any]:
    """Return a picture as a part of a chat message."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue(), "image/png")}}
