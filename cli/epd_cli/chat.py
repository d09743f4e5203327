"""`epd chat`: one question, its answer as it comes, and which pod did what."""

import argparse
import asyncio
import mimetypes
import sys
import time
from pathlib import Path
from typing import Any

import openai

from epd.vocabulary import Stage
from epd_cli.connect import chosen_cluster
from epd_cli.demo_images import data_url
from epd_cli.failures import CommandError, UsageError
from epd_cli.timeline import summary, timeline_of


def run(options: argparse.Namespace) -> int:
    """Ask, print the answer, then say which pod served which stage."""
    content = [_image(name) for name in options.image]
    content.append({"type": "text", "text": options.prompt})
    admin_url = None
    url, model = options.url, options.model
    if url is None:
        cluster = chosen_cluster(options).read()
        url, admin_url = f"{cluster.gateway_url}/v1", cluster.admin_url
        model = model or cluster.model
    try:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            identifier, told = _ask(client, model or _only_model(client), content, options)
    except openai.APIStatusError as refusal:
        raise CommandError(f"{refusal.status_code}: {_message(refusal)}") from None
    except openai.APIConnectionError:
        raise CommandError(f"nothing answers at {url}; see epd status") from None
    except openai.OpenAIError as failure:
        raise CommandError(" ".join(str(failure).split())) from None
    print(f"\n\n{told}", file=sys.stderr)
    if admin_url:
        records = asyncio.run(timeline_of(admin_url, identifier))
        for stage in Stage:
            print(f"  {stage:8} {summary(records, stage)}", file=sys.stderr)
    return 0


def _ask(
    client: openai.OpenAI, model: str, content: list[dict[str, Any]], options: argparse.Namespace
) -> tuple[str, str]:
    """Print the answer as it comes; return the request's id and a line about it."""
    began_s = time.monotonic()
    ttft_s, tokens, identifier = None, 0, ""
    messages: Any = [{"role": "user", "content": content}]
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=options.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        identifier = chunk.id
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if choice.delta.content:
                ttft_s = ttft_s or time.monotonic() - began_s
                print(choice.delta.content, end="", flush=True)
    took_s = time.monotonic() - began_s
    first = f"the first after {ttft_s * 1000:.0f} ms, " if ttft_s else ""
    return identifier, f"{tokens} tokens, {first}all after {took_s * 1000:.0f} ms"


def _only_model(client: openai.OpenAI) -> str:
    models = [model.id for model in client.models.list()]
    if len(models) != 1:
        raise UsageError(f"choose one with --model: {', '.join(models) or 'none is served'}")
    return models[0]


def _image(name: str) -> dict[str, Any]:
    media_type = mimetypes.guess_type(name)[0]
    if media_type is None or not media_type.startswith("image/"):
        raise UsageError(f"--image {name}: not the name of a picture (png, jpeg, webp, gif)")
    try:
        content = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"--image {name}: {error.strerror}") from None
    return {"type": "image_url", "image_url": {"url": data_url(content, media_type)}}


def _message(refusal: openai.APIStatusError) -> str:
    body = refusal.body
    return str(body.get("message")) if isinstance(body, dict) else refusal.message
