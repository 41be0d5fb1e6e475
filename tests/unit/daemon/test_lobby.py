"""Who waits at the door, and who has to go."""

from typing import Any, cast

from qvirt.daemon.lobby import REMEMBERED, STALE, Lobby

LIMIT = 20


class Service:
    def __init__(self, is_remote: bool) -> None:
        self.is_remote = is_remote


class Stranger:
    """A client as far as the lobby looks at it."""

    def __init__(self, host: str, at: float, *, remote: bool = True) -> None:
        self.host, self.connected_at = host, at
        self.service = Service(remote)


def come(lobby: Lobby, host: str, count: int, at: float, *, remote: bool = True) -> list[Any]:
    made = [cast(Any, Stranger(host, at, remote=remote)) for _ in range(count)]
    for one in made:
        lobby.enter(one)
    return made


def test_those_outside_and_inside_are_counted_apart() -> None:
    lobby = Lobby()
    come(lobby, "a", LIMIT, 0)
    assert lobby.is_full(True, LIMIT)
    assert not lobby.is_full(False, LIMIT)
    come(lobby, "", LIMIT, 0, remote=False)
    assert lobby.is_full(False, LIMIT)
    assert not lobby.is_full(True, 0), "0 is no limit"


def test_a_burst_of_honest_clients_only_waits() -> None:
    lobby = Lobby()
    burst = come(lobby, "a", LIMIT, 0)
    assert lobby.excess(LIMIT, STALE / 2) == []
    for one in burst:
        lobby.leave(one)
        lobby.leave(one)
    assert not lobby.is_full(True, LIMIT)
    assert burst[0] not in lobby
    assert lobby.excess(LIMIT, STALE * 2) == []


def test_a_host_that_lets_them_lie_about_has_half_of_the_places() -> None:
    lobby = Lobby()
    old = come(lobby, "pest", LIMIT - 2, 0)
    honest = come(lobby, "honest", 2, 0)
    gone = lobby.excess(LIMIT, STALE)
    assert gone == old[: len(gone)]
    for one in gone:
        lobby.leave(one)
    assert not lobby.is_full(True, LIMIT)
    assert all(one in lobby for one in honest)
    # from now on each new one takes the place of an old one
    for number in range(50):
        (new,) = come(lobby, "pest", 1, STALE + number / 100)
        for one in lobby.displaced_by(new, LIMIT):
            assert one is not new
            lobby.leave(one)
    assert not lobby.is_full(True, LIMIT)
    (other,) = come(lobby, "other", 1, STALE)
    assert lobby.displaced_by(other, LIMIT) == []


def test_it_is_forgotten_after_a_while() -> None:
    lobby = Lobby()
    everybody = come(lobby, "pest", LIMIT, 0)
    assert lobby.excess(LIMIT, STALE)
    for one in everybody:
        lobby.leave(one)
    assert lobby.excess(LIMIT, STALE + REMEMBERED + 1) == []
    crowd = come(lobby, "pest", LIMIT, STALE + REMEMBERED + 1)
    assert lobby.displaced_by(crowd[-1], LIMIT) == []
