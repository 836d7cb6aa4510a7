"""Who holds up the others is named, by how far each is. Two processes do so in tests/runtime/test_distributed.py."""

import time

import pytest

from nat_ar.runtime import stuck
from nat_ar.runtime.stuck import Answer, Steps

NAMES = ("process 0 of 3 (a)", "process 1 of 3 (b)", "process 2 of 3 (c)")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            {0: Answer(9, 600.4), 1: Answer(7, 605.2), 2: Answer(9, 600.1)},
            "process 1 of 3 (b) is stuck: no step for 605 s since step 7, and the others wait at step 9; ",
        ),
        (  # the others have begun a validation, which waits for it
            {0: Answer(8, None), 1: Answer(8, 601.0), 2: Answer(8, None)},
            "process 1 of 3 (b) is stuck: no step for 601 s since step 8, and the others wait at step 8; ",
        ),
        (
            {0: Answer(9, 600.4), 2: Answer(9, 600.1)},
            "process 1 of 3 (b) is stuck: it does not even say at which step it is; ",
        ),
        (
            {index: Answer(9, 600.0) for index in range(3)},
            "all processes have begun step 9, and none has ended it for 600 s; ",
        ),
    ],
)
def test_the_one_that_is_behind_is_named(answers: dict[int, Answer], expected: str) -> None:
    assert stuck.verdict(answers, NAMES) == expected + stuck.ADVICE


def test_no_step_is_waited_for_where_none_is_expected() -> None:
    steps = Steps()
    assert steps.answer == Answer(0, None)
    with steps.expected():
        steps.began(3)
        with steps.none_expected():
            assert steps.answer == Answer(3, None)
        before = steps.answer.seconds
        time.sleep(0.01)
        after = steps.answer.seconds
        assert before is not None
        assert after is not None
        assert 0 <= before < after
    assert steps.answer == Answer(3, None)


class Store(dict[str, str]):
    """As JAX's."""

    def key_value_dir_get(self, start: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.items() if key.startswith(start)]

    def key_value_set(self, key: str, value: str) -> None:
        self[key] = value


def test_all_answer_the_first_that_asks_and_end_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    store, ends = Store(), {}

    def watch(index: int) -> stuck.Watch:
        return stuck.Watch(store, index, NAMES[:2], lambda text: ends.update({index: text}), 60.0)

    def answer(one: stuck.Watch) -> None:
        one._answer(dict(store.key_value_dir_get(stuck.ANSWERS)))

    watches = [watch(0), watch(1)]
    for one, number in zip(watches, (5, 4), strict=True):
        monkeypatch.setattr(stuck, "steps", steps := Steps())
        steps.began(number)
        answer(one)
    assert not ends
    for one in watches:
        answer(one)
    assert ends[0] == ends[1]
    assert ends[0].startswith("process 1 of 3 (b) is stuck: no step for 0 s since step 4")
