import pytest

from service.batching.inflight import InflightBytes
from service.errors import AnswerTooLarge, ClientLeft, Overloaded
from service.pipeline.room import AnswerRoom


class Size:
    """An answer of ten bytes of samples for each region, and of one that is written of them."""

    def samples(self, regions):
        return 10 * len(regions)

    def written(self, regions):
        return len(regions)


REGION = (0, 0, 1, 1)


@pytest.fixture
def inflight():
    return InflightBytes(100, lambda: 0.0)


def test_what_is_reserved_counts_with_all_others_until_it_is_dropped(inflight):
    with inflight.hold() as holding:
        holding.resize(20)
        room = AnswerRoom(Size(), holding, 50)
        room.reserve([REGION] * 3)
        assert inflight.num_bytes == 20 + 30 + 3
        # Again, as where a batch is run anew.
        room.reserve([REGION] * 3)
        assert inflight.num_bytes == 20 + 30 + 3
        room.keep_others(5)
        room.count(2)
        assert inflight.num_bytes == 5 + 30 + 3
        room.count(8)
        assert inflight.num_bytes == 5 + 30 + 10
        room.drop_samples()
        room.count(-6)
        assert inflight.num_bytes == 5 + 4
    assert inflight.num_bytes == 0


def test_an_answer_beyond_its_own_limit_is_too_large(inflight):
    with inflight.hold() as holding:
        room = AnswerRoom(Size(), holding, 50)
        room.check([REGION] * 5)
        with pytest.raises(AnswerTooLarge):
            room.check([REGION] * 6)
        with pytest.raises(AnswerTooLarge):
            room.reserve([REGION] * 6)
        assert inflight.num_bytes == 0
        room.reserve([REGION])
        room.count(50)
        with pytest.raises(AnswerTooLarge):
            room.count(1)


def test_an_answer_that_could_never_be_held_is_too_large_and_not_for_later(inflight):
    with inflight.hold() as holding, pytest.raises(AnswerTooLarge):
        AnswerRoom(Size(), holding, 1000).reserve([REGION] * 10)


def test_an_answer_that_has_no_room_now_is_for_later(inflight):
    with inflight.hold() as other, inflight.hold() as holding:
        other.resize(90)
        room = AnswerRoom(Size(), holding, 50)
        with pytest.raises(Overloaded):
            room.reserve([REGION])
        other.resize(80)
        room.reserve([REGION])
        with pytest.raises(Overloaded):
            room.count(20)
        assert inflight.num_bytes == 80 + 10 + 1


def test_whoever_still_writes_an_answer_that_nobody_waits_for_is_ended(inflight):
    with inflight.hold() as holding:
        room = AnswerRoom(Size(), holding, 50)
        room.reserve([REGION])
    with pytest.raises(ClientLeft):
        room.count(1)
    with pytest.raises(ClientLeft):
        room.reserve([REGION])
    assert inflight.num_bytes == 0
