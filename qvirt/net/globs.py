"""The patterns of libvirt's lists of allowed names: ``*`` for any characters, ``?`` for one, nothing else."""


def matches(pattern: str, text: str) -> bool:
    """Tell whether a pattern covers the whole text.

    Takes no longer than both lengths multiplied, whatever the pattern: the text is a stranger's.
    """
    at = place = 0
    star, resume = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at += 1
            place += 1
        elif star >= 0:
            # Let the last star cover one character more.
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(char == "*" for char in pattern[at:])
