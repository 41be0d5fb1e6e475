"""What /proc tells of any process, by which it is known again: its number alone is given to others."""


def start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None when there is none. Zombies are gone."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def stat_fields(pid: int, tid: int | None = None) -> list[str] | None:
    """Return /proc's stat line of a process or thread from its state (field 3) on; None when it is gone."""
    path = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name is in parentheses and may hold anything
    return text[text.rindex(b")") + 2 :].decode("ascii", "replace").split()
