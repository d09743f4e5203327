"""Requests that are sound but for one field, which holds what it should not.

Whatever it holds, a client is at most told that it made a mistake.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from bad_input import Json, Service
from bad_input_cases import CHAT, COMPLETIONS

AT_ONCE = 8
FIELDS_OF_BOTH = [
    "add_special_tokens", "allowed_token_ids", "bad_words", "best_of", "cache_salt", "echo",
    "ec_transfer_params", "frequency_penalty", "ignore_eos", "include_stop_str_in_output",
    "kv_transfer_params", "length_penalty", "logit_bias", "logprobs", "max_tokens", "min_p",
    "min_tokens", "n", "priority", "prompt_logprobs", "repetition_detection",
    "repetition_penalty", "request_id", "response_format", "return_token_ids", "seed",
    "skip_special_tokens", "stop", "stop_token_ids", "stream", "stream_interval",
    "stream_options", "structured_outputs", "temperature", "thinking_token_budget", "top_k",
    "top_p", "truncate_prompt_tokens", "truncation_side", "use_beam_search", "user", "vllm_xargs",
]  # fmt: skip
FIELDS_OF_CHATS = [
    "add_generation_prompt", "chat_template", "chat_template_kwargs", "continue_final_message",
    "documents", "include_reasoning", "logprob_token_ids", "max_completion_tokens",
    "media_io_kwargs", "messages", "mm_processor_kwargs", "parallel_tool_calls",
    "reasoning_effort", "tool_choice", "tools", "top_logprobs",
]  # fmt: skip
FIELDS_OF_COMPLETIONS = ["prompt", "prompt_embeds", "suffix"]
ODD_VALUES: list[Any] = [
    -1, 0, 1.5, 1e30, 10**25, True, "", "x", [], [None], [[]], ["x"], {}, {"type": "x"},
]  # fmt: skip


def odd_requests() -> list[Json]:
    """Return the requests."""
    return [
        Json(path, {name: value})
        for path, fields in (
            (CHAT, FIELDS_OF_BOTH + FIELDS_OF_CHATS),
            (COMPLETIONS, FIELDS_OF_BOTH + FIELDS_OF_COMPLETIONS),
        )
        for name in fields
        for value in ODD_VALUES
    ]


def answered_badly(service: Service) -> list[str]:
    """Send them; return those that are neither answered nor refused as a mistake."""
    with service.client() as client, ThreadPoolExecutor(AT_ONCE) as threads:
        return [*filter(None, threads.map(lambda r: _fault(r, client, service), odd_requests()))]


def _fault(request: Json, client: openai.OpenAI, service: Service) -> str:
    answer = request.ask(client, service)
    if answer.status == 200 and b'"error"' not in answer.body:
        return ""
    if answer.status == 400 and answer.error["type"] == "invalid_request_error":
        return ""
    return f"{request.path} {request.fields}: {answer.status} {answer.body!r}"
