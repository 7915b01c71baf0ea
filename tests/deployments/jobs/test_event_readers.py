import pytest

from deployments.errors import OverloadedError, QuotaExceededError
from deployments.jobs.event_readers import EventReaders
from deployments.keys import ANONYMOUS


def test_a_key_has_half_of_the_places() -> None:
    readers = EventReaders(4)
    for _ in range(2):
        readers.enter("alice")

    with pytest.raises(QuotaExceededError, match="2 jobs at once"):
        readers.enter("alice")
    readers.enter("bob")


def test_without_keys_everyone_shares_all_places() -> None:
    readers = EventReaders(2)
    for _ in range(2):
        readers.enter(ANONYMOUS.key_id)

    with pytest.raises(OverloadedError):
        readers.enter(ANONYMOUS.key_id)


def test_a_place_is_given_back_once() -> None:
    readers = EventReaders(2)
    leave, _ = readers.enter("alice"), readers.enter("bob")

    leave()
    leave()
    readers.enter("alice")

    with pytest.raises(OverloadedError):
        readers.enter("carol")
