"""The flips of the demo: where they lead, and that no stage is ever without a pod."""

import pytest

from epd.vocabulary import Role, Stage
from epd_cli.demo_rotation import rotation
from epd_cli.demo_timeline import WIDTH, draw_roles

E, P, D = Role.ENCODE, Role.PREFILL, Role.DECODE
SPLITS = [
    [E, P, D],
    [E, P, D, D],
    [E, E, P, P, D],
    [Role.ENCODE_PREFILL, D],
    [Role.ENCODE_DECODE, P],
    [Role.ENCODE_PREFILL_DECODE] * 3,
    [Role.ENCODE_PREFILL_DECODE] * 2,
]


def covered(roles: list[Role]) -> set[Stage]:
    return {stage for role in roles for stage in role.stages}


@pytest.mark.parametrize("roles", SPLITS, ids=lambda roles: "+".join(roles))
def test_no_flip_leaves_a_stage_without_a_pod(roles: list[Role]) -> None:
    now = list(roles)
    for index, role in rotation(roles):
        assert now[index] is not role, "a flip changes something"
        now[index] = role
        assert covered(now) == set(Stage)


@pytest.mark.parametrize("roles", SPLITS, ids=lambda roles: "+".join(roles))
def test_the_split_is_the_same_afterwards(roles: list[Role]) -> None:
    now = list(roles)
    for index, role in rotation(roles):
        now[index] = role
    assert sorted(now) == sorted(roles)


def test_three_pods_take_over_one_anothers_roles_in_four_flips() -> None:
    assert rotation([E, P, D]) == [(0, Role.ENCODE_DECODE), (2, P), (1, E), (0, D)]


def test_pods_that_are_alike_part_and_come_together() -> None:
    assert len(rotation([Role.ENCODE_PREFILL_DECODE] * 2)) == 4


@pytest.mark.parametrize("roles", [[Role.ENCODE_PREFILL_DECODE], [D, D]])
def test_where_no_flip_is_safe_there_is_none(roles: list[Role]) -> None:
    assert rotation(roles) == []


def test_a_drawing_shows_each_pods_role_from_left_to_right() -> None:
    both = Role.ENCODE_DECODE
    lines = draw_roles({"a": E, "b": P}, [(5.0, "a", both), (10.0, "a", D)], 20.0)
    quarter = WIDTH // 4
    assert lines == [
        "a  " + "E" * quarter + "ed" * (quarter // 2) + "D" * (2 * quarter),
        "b  " + "P" * WIDTH,
    ]
