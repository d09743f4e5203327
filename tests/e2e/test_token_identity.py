"""Three pods say token for token what one engine says, in every split, streamed or not.

Every cell of the matrix has a question of its own, so that no cell finds its prompt or its images
in a cache that another has filled.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from reference_answers import Answer, Question, answers_of, picture, question, tiny_model
from running_cluster import Cluster

from epd.vocabulary import Method, Role, Stage
from epd_worker.engine.tiny_models import TinyKind

pytestmark = pytest.mark.vllm

Cell = tuple[str, Method, str]

# The first is the one whose pods the tests before have left running.
FAMILIES = (TinyKind.QWEN3_VL, TinyKind.QWEN2_5_VL, TinyKind.LLAVA)
CONTENTS = ("text", "one-image", "several-images")
PROGRAMS = ("hf", "vllm")
TRANSPORTS = ("streamed", "whole")
CELLS: tuple[Cell, ...] = tuple(itertools.product(CONTENTS, Method, TRANSPORTS))
LOGPROB_TOLERANCE = 1e-4

# Which pods take which roles; three pods of two roles have two of one. The turns differ, so that
# every pod works in every stage.
SPLITS = {
    Method.EPD: (Role.ENCODE_PREFILL_DECODE,) * 3,
    Method.EP_D: (Role.DECODE, Role.ENCODE_PREFILL, Role.DECODE),
    Method.ED_P: (Role.PREFILL, Role.PREFILL, Role.ENCODE_DECODE),
    Method.E_P_D: (Role.ENCODE, Role.PREFILL, Role.DECODE),
}


def question_of(cell: Cell) -> Question:
    """Return the question of one cell of the matrix; no two cells share words or pictures."""
    number = CELLS.index(cell)
    if cell[0] == "text":
        return question(f"{number} quick brown foxes jump over the lazy dog.")
    one = picture(10 * number)
    if cell[0] == "one-image":
        return question(f"Describe image {number} in detail.", one)
    # Sizes differ, and one picture comes twice.
    other = picture(10 * number + 1, (150, 200))
    return question(f"How do the pictures of {number} differ?", one, other, one)


# Of a wider scope than the splits, so that every family's pods are started once.
@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyKind:
    """The model family under test."""
    return TinyKind(request.param)


@pytest.fixture(scope="module")
def expected(family: TinyKind) -> dict[str, dict[Cell, Answer]]:
    """What Hugging Face and one plain vLLM engine answer, cell by cell."""
    model, questions = tiny_model(family), [question_of(cell) for cell in CELLS]

    def answers(program: str) -> dict[Cell, Answer]:
        return dict(zip(CELLS, answers_of(program, model, questions), strict=True))

    with ThreadPoolExecutor() as side_by_side:
        return dict(zip(PROGRAMS, side_by_side.map(answers, PROGRAMS), strict=True))


@pytest.fixture(scope="module")
def cluster(
    family: TinyKind,
    vllm_cluster: Callable[[TinyKind], Cluster],
    expected: dict[str, dict[Cell, Answer]],
) -> Cluster:
    """Three running pods, started once the plain engines have ended."""
    return vllm_cluster(family)


@pytest.fixture(scope="module", params=Method)
def method(request: pytest.FixtureRequest, cluster: Cluster) -> Method:
    """The split, which the same three running pods are flipped to."""
    for pod, role in zip(cluster.pods, SPLITS[request.param], strict=True):
        cluster.flip(pod, role)
    return Method(request.param)


def ask(cluster: Cluster, asked: Question, *, streamed: bool) -> tuple[Answer, str]:
    """Ask through the gateway; return the answer and the id of the response."""
    with cluster.client() as client:
        response = client.chat.completions.create(
            model=cluster.running.model,
            messages=asked.messages,  # type: ignore[arg-type]
            max_tokens=asked.max_tokens,
            temperature=0,
            logprobs=True,
            stream=streamed,
            extra_body={"return_tokens_as_token_ids": True},
        )
        chunks = list(response) if streamed else [response]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    steps = [step for choice in choices if choice.logprobs for step in choice.logprobs.content]
    token_ids = [int(step.token.removeprefix("token_id:")) for step in steps]
    return Answer(token_ids, [step.logprob for step in steps]), chunks[0].id


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("content", CONTENTS)
def test_three_pods_answer_like_one_engine_and_like_hugging_face(
    cluster: Cluster,
    expected: dict[str, dict[Cell, Answer]],
    method: Method,
    content: str,
    transport: str,
) -> None:
    cell = (content, method, transport)
    answer, response_id = ask(cluster, question_of(cell), streamed=transport == "streamed")
    for program, answers in expected.items():
        right = answers[cell]
        assert answer.token_ids == right.token_ids, program
        assert answer.logprobs == pytest.approx(right.logprobs, abs=LOGPROB_TOLERANCE), program
    assert_served_by_the_right_pods(cluster, response_id, method, content)


def assert_served_by_the_right_pods(
    cluster: Cluster, response_id: str, method: Method, content: str
) -> None:
    """Check the gateway's timeline: every stage was done at once, by a pod that is offered it."""
    stages = cluster.timeline(response_id)
    roles = dict(zip(cluster.pods, SPLITS[method], strict=True))
    assert all(entry["stage"] in roles[entry["pod"]].stages for entry in stages), stages
    assert not any(entry["failure"] or entry["overflow"] for entry in stages), stages
    done = {Stage(entry["stage"]) for entry in stages}
    assert done >= {Stage.PREFILL, Stage.DECODE}
    if content == "text":
        assert Stage.ENCODE not in done
    elif method in (Method.ED_P, Method.E_P_D):
        # Elsewhere the pod that prefills may encode within the same call: nothing moves then.
        assert Stage.ENCODE in done
