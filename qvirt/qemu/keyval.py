"""QEMU's ``key=value,…`` grammar, both ways. The only place that escapes commas."""

from collections.abc import Iterable, Mapping

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def flatten(props: Mapping[str, JsonValue], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield dotted keys with QEMU's spelling of each value; None stands for "not given"."""
    for key, value in props.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            yield name, "on" if value else "off"
        elif isinstance(value, dict):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list):
            yield from flatten({str(i): item for i, item in enumerate(value)}, f"{name}.")
        elif value is not None:
            yield name, str(value)


def format_keyval(props: Mapping[str, JsonValue], implied: str | None = None) -> str:
    """Write the properties; the value of the key ``implied`` is written first and without its key."""
    parts = []
    for key, value in flatten(props):
        escaped = value.replace(",", ",,") if "," in value else value
        parts.append(escaped if key == implied else f"{key}={escaped}")
    return ",".join(parts)


def format_pairs(pairs: Iterable[tuple[str, JsonValue]], implied: str | None = None) -> str:
    """Write properties of which some are given more than once."""
    return ",".join(format_keyval({key: value}, implied) for key, value in pairs if value is not None)
