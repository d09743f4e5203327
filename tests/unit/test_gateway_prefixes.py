"""Who prefilled prompts that begin alike, as far as a gateway knows."""

import json

from epd.wire.messages import IMAGE_REFERENCE_PREFIX
from epd_gateway.prefixes import BLOCK_BYTES, PrefixBook, prompt_keys


def chat(*texts, **more):
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "m", **more, "messages": messages}).encode()


LONG = "All happy families are alike. " * 200


def test_a_short_prompt_has_no_keys():
    assert prompt_keys(chat("hello")) == ()


def test_a_conversation_that_goes_on_begins_with_the_keys_it_had():
    before, after = prompt_keys(chat(LONG)), prompt_keys(chat(LONG, "and then?", LONG))
    assert len(after) > len(before) > 4
    assert after[: len(before)] == before


def test_what_is_not_the_prompt_does_not_count():
    assert prompt_keys(chat(LONG, temperature=0.5)) == prompt_keys(chat(LONG, seed=12345))


def test_prompts_that_differ_early_share_nothing():
    assert not set(prompt_keys(chat("x" + LONG))) & set(prompt_keys(chat("y" + LONG)))


def test_prompts_of_completions_have_keys():
    assert prompt_keys(json.dumps({"model": "m", "prompt": LONG}).encode())


def test_images_count_by_their_content_from_where_they_stand():
    url = {"type": "image_url", "image_url": {"url": f"{IMAGE_REFERENCE_PREFIX}0"}}
    parts = [{"type": "text", "text": LONG}, url, {"type": "text", "text": LONG}]
    body = json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()
    cat, dog = prompt_keys(body, [1]), prompt_keys(body, [2])
    same = sum(a == b for a, b in zip(cat, dog, strict=True))
    assert same == len(LONG) // BLOCK_BYTES
    assert prompt_keys(body, [1]) == cat


def test_a_book_tells_the_share_of_a_prompt_that_each_pod_holds():
    book = PrefixBook()
    book.note((1, 2, 3, 4), "a")
    book.note((1, 2, 9), "b")
    assert book.shares((1, 2, 3, 5)) == {"a": 0.75, "b": 0.5}
    assert book.shares((7, 1)) == {}
    assert book.shares(()) == {}


def test_a_book_forgets_what_is_oldest_and_remembers_few_pods_of_a_block():
    book = PrefixBook(capacity=3)
    book.note((1, 2), "a")
    book.note((3, 4), "b")
    assert book.shares((1,)) == {}
    assert book.shares((2,)) == {"a": 1.0}
    for pod in "cdefg":
        book.note((4,), pod)
    assert set(book.shares((4,))) == set("defg")
