"""What vLLM refuses becomes one line, a path that the client wrote, and OpenAI's codes."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from epd.wire.messages import FailureKind
from epd_worker.engine.vllm_refusal import (
    MAX_MESSAGE_CHARS,
    of_response,
    of_unexpected_form,
    of_validation,
)


class Developer(BaseModel):
    role: Literal["developer"]
    content: str


class User(BaseModel):
    role: Literal["user"]
    content: str | list[int]
    name: str = ""


class Body(BaseModel):
    messages: list[Developer | User]
    n: Annotated[int, Field(ge=1)] = 1
    format: Literal["text", "json"] = "text"


def of_body(**fields: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"messages": [], **fields})
    refusal = of_validation(caught.value)
    assert (refusal.kind, refusal.status) == (FailureKind.REFUSED, 400)
    return told(refusal.body)


def told(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def test_a_field_of_a_union_is_named_as_the_client_wrote_it() -> None:
    error = of_body(messages=[{"role": "user", "content": "x", "name": 5}])
    assert error["param"] == "messages[0].name"
    assert error["message"] == "messages[0].name: Input should be a valid string"


def test_names_of_pydantics_branches_stand_in_no_path() -> None:
    assert of_body(messages=[{"role": "user", "content": ["x"]}])["param"] == "messages[0].content"


def test_a_value_outside_a_fixed_set_is_named_with_the_set() -> None:
    error = of_body(format="xml")
    assert error["param"] == "format"
    assert "'text' or 'json'" in error["message"]


def test_a_path_that_begins_in_the_middle_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[User]).validate_python([{"role": "user"}])
    error = told(of_validation(caught.value).body)
    assert (error["param"], error["message"]) == (None, "Field required")


def test_a_mistake_of_the_whole_body_names_no_field() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(5)
    assert told(of_validation(caught.value).body)["param"] is None


def test_the_refused_value_is_not_repeated() -> None:
    message = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    error = told(of_response(400, message, "max_tokens", ["max_tokens"]).body)
    assert error["message"] == "max_tokens must be at least 1, got 0."
    assert (error["param"], error["code"]) == ("max_tokens", None)


@pytest.mark.parametrize("name", ["input_tokens", "input_text"])
@pytest.mark.parametrize("field", ["messages", "prompt"])
def test_a_prompt_that_is_too_long_has_openais_code_and_the_clients_field(
    name: str, field: str
) -> None:
    error = told(of_response(400, "too long", name, [field, "model"]).body)
    assert (error["param"], error["code"]) == (field, "context_length_exceeded")


def test_the_limit_has_the_name_that_the_client_used() -> None:
    fields = ["messages", "max_completion_tokens"]
    assert told(of_response(400, "x", "max_tokens", fields).body)["param"] == fields[1]


def test_a_message_that_begins_with_a_field_names_it() -> None:
    assert told(of_response(400, "n must be at least 1", None, ["n"]).body)["param"] == "n"
    assert told(of_response(400, "Grammar error: n", None, ["n"]).body)["param"] is None


def test_a_processors_failure_quotes_nothing() -> None:
    message = "Failed to apply Qwen3VLProcessor on data={'text': 'my diary'} with kwargs={}"
    error = told(of_response(400, message, None).body)
    assert error["code"] == "invalid_image"
    assert "diary" not in error["message"]


def test_an_image_that_cannot_be_decoded_is_an_invalid_image() -> None:
    error = told(of_response(400, "Failed to load image: broken data stream", None).body)
    assert error["code"] == "invalid_image"


@pytest.mark.parametrize(
    ("status", "kind", "told_status"),
    [
        (400, FailureKind.REFUSED, 400),
        (404, FailureKind.REFUSED, 404),
        (422, FailureKind.REFUSED, 400),
        (501, FailureKind.REFUSED, 400),
        (500, FailureKind.INTERNAL, 0),
        (503, FailureKind.INTERNAL, 0),
    ],
)
def test_only_what_the_client_can_mend_is_refused(
    status: int, kind: FailureKind, told_status: int
) -> None:
    error = of_response(status, "words", None)
    assert (error.kind, error.status) == (kind, told_status)
    assert bool(error.body) is (kind is FailureKind.REFUSED)


def test_a_message_is_one_line_of_bounded_length() -> None:
    message = told(of_response(400, "one\ntwo " + 9999 * "x", None).body)["message"]
    assert message.startswith("one two ")
    assert len(message) == MAX_MESSAGE_CHARS


def test_what_broke_the_validators_is_the_clients_mistake_too() -> None:
    assert told(of_unexpected_form().body)["param"] is None
