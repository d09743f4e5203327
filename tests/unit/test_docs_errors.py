"""docs/errors.md: its tables are those of the code, and each row of bad input has its test."""

import re
from collections import Counter

import pytest
from bad_input import (
    ENGINE_SECTION,
    GATEWAY_SECTIONS,
    PAGE,
    VLLM_SECTION,
    Row,
    rows,
    rows_of,
)
from bad_input_cases import (
    BODY_CASES,
    CASES,
    ENGINE_CASES,
    HTTP_CASES,
    IMAGE_CASES,
    URL_CASES,
    VLLM_CASES,
)

from epd_gateway.errors import ENGINE_CODES, KINDS, ClientGone


def codes_of_the_page() -> dict[str, int]:
    section = PAGE.read_text(encoding="utf-8").partition("## Codes")[2].partition("\n## ")[0]
    return {code: int(s) for code, s in re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.M)}


def test_the_table_of_codes_is_that_of_the_gateway() -> None:
    kinds = {kind.code: kind.status for cause, kind in KINDS.items() if cause is not ClientGone}
    expected = {code: status for code, status in kinds.items() if code is not None}
    assert codes_of_the_page() == expected | dict.fromkeys(ENGINE_CODES, 400)


def test_every_row_has_a_case_and_every_case_a_row() -> None:
    assert sorted(row.id for row in rows()) == sorted(CASES)


def test_no_row_appears_twice() -> None:
    assert [name for name, count in Counter(row.id for row in rows()).items() if count > 1] == []


@pytest.mark.parametrize(
    ("section", "cases"),
    [
        *zip(GATEWAY_SECTIONS, (HTTP_CASES, BODY_CASES, IMAGE_CASES, URL_CASES), strict=True),
        (ENGINE_SECTION, ENGINE_CASES),
        (VLLM_SECTION, VLLM_CASES),
    ],
)
def test_rows_and_cases_stand_in_the_same_section_and_order(section, cases) -> None:
    assert [row.id for row in rows_of(section)] == list(cases)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_a_row_says_what_the_codes_say(row: Row) -> None:
    assert 400 <= row.status < 500
    if row.code is not None:
        assert codes_of_the_page()[row.code] == row.status


def test_a_row_of_a_page_that_is_cut_short_is_not_taken_for_a_whole_one() -> None:
    row = Row("s", "r", 400, None, None, "over … bytes")
    assert row.says("over 5 bytes")
    assert not row.says("over 5 bytes, and more")
    assert not row.says("just over 5 bytes")
