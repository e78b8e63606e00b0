from __future__ import annotations

from rtvi_actors.web.tickets import Tickets, session_id_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_ticket_is_good_once() -> None:
    tickets = Tickets()
    token = tickets.issue()
    assert tickets.use([token])
    assert not tickets.use([token])


def test_no_ticket_and_a_forged_ticket_are_refused() -> None:
    tickets = Tickets()
    tickets.issue()
    assert not tickets.use([])
    assert not tickets.use(["", "forged"])


def test_one_good_ticket_among_used_ones_is_enough() -> None:
    tickets = Tickets()
    first, second = tickets.issue(), tickets.issue()
    assert tickets.use([first])
    assert tickets.use([first, second])


def test_a_ticket_expires() -> None:
    clock = Clock()
    tickets = Tickets(life_s=300, clock_s=clock)
    early = tickets.issue()
    clock.now_s = 200
    late = tickets.issue()
    clock.now_s = 300
    assert not tickets.use([early])
    assert tickets.use([late])


def test_the_oldest_ticket_goes_when_there_are_too_many() -> None:
    tickets = Tickets(most=2)
    first, second, third = (tickets.issue() for _ in range(3))
    assert not tickets.use([first])
    assert tickets.use([second])
    assert tickets.use([third])


def test_a_ticket_names_its_session_and_the_name_gives_nothing_away() -> None:
    first, second = (Tickets().issue() for _ in range(2))
    assert session_id_of(first) == session_id_of(first) != session_id_of(second)
    assert session_id_of(first).startswith("session-")
    assert first not in session_id_of(first)
    assert session_id_of("\ud800") != session_id_of(""), "whatever a server makes of a path"
