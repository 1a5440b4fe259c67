from concurrent.futures import CancelledError

import pytest

from service.batching.ticket import BatchKey, Ticket, refuse, resolve


def make_ticket() -> Ticket[int, str]:
    return Ticket(BatchKey("a", (320, 448)), 1, deadline_s=10.0, queued_s=0.0)


def test_a_ticket_that_waits_is_refused_with_the_reason():
    ticket = make_ticket()
    refuse(ticket, ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        ticket.result.result(0)


def test_a_cancelled_ticket_is_not_refused():
    ticket = make_ticket()
    ticket.result.cancel()
    refuse(ticket, ValueError("why"))
    with pytest.raises(CancelledError):
        ticket.result.result(0)


@pytest.mark.parametrize("outcome", ["late", ValueError("late")])
def test_a_ticket_ends_once(outcome):
    ticket = make_ticket()
    ticket.result.set_running_or_notify_cancel()
    resolve(ticket, "first")
    resolve(ticket, outcome)
    assert ticket.result.result(0) == "first"


def test_tickets_are_told_apart_though_they_ask_the_same():
    assert make_ticket() != make_ticket()
