"""Questions to a QAPI schema: is there such a command, argument, variant, enum value, feature?

A question is a path in libvirt's notation (its virQEMUCapsQMPSchemaQueries use the same), one step per slash:

    blockdev-add                                    the command or event is there
    blockdev-add/arg-type/discard                   it takes this argument; ret-type: it answers with it
    blockdev-add/arg-type/+nvme                     the union has this variant; steps go on inside it
    device_add/$json-cli-hotplug                    it has this feature
    blockdev-add/arg-type/detect-zeroes/^unmap      the enumeration has this value
    query-iothreads/ret-type/*aio-max-batch         the member is there and optional

Lists are entered silently; an alternative is entered through each of its branches.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Entry: TypeAlias = Mapping[str, Any]  # a SchemaInfo as query-qmp-schema answers it: a JSON edge
Schema: TypeAlias = Mapping[str, Entry]


def index(answer: Sequence[Entry]) -> dict[str, Entry]:
    """Index the answer of query-qmp-schema by name."""
    return {entry["name"]: entry for entry in answer}


def has(schema: Schema, path: str) -> bool:
    """Answer a question to a schema."""
    name, *steps = path.split("/")
    entry = schema.get(name)
    if entry is None or entry["meta-type"] not in ("command", "event"):
        return False
    return _walk(schema, entry, steps)


def _walk(schema: Schema, entry: Entry, steps: Sequence[str]) -> bool:
    if not steps:
        return True
    step, rest = steps[0], steps[1:]
    if step.startswith("$"):
        return not rest and step[1:] in entry.get("features", ())
    walk = _WALKS.get(entry["meta-type"])
    return walk is not None and walk(schema, entry, step, rest)


def _call(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    target = entry.get(step) if step in ("arg-type", "ret-type") else None
    return target is not None and _walk(schema, schema[target], rest)


def _object(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    if step.startswith("+"):
        variants = (v["type"] for v in entry.get("variants", ()) if v["case"] == step[1:])
        return any(_walk(schema, schema[variant], rest) for variant in variants)
    optional = step.startswith("*")
    name = step.removeprefix("*")
    for member in entry.get("members", ()):
        if member["name"] == name:
            if optional and "default" not in member:
                return False
            if rest and rest[0].startswith("$"):
                return len(rest) == 1 and rest[0][1:] in member.get("features", ())
            return _walk(schema, schema[member["type"]], rest)
    return False


def _enum(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    return step.startswith("^") and not rest and step[1:] in entry.get("values", ())


def _array(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    return _walk(schema, schema[entry["element-type"]], [step, *rest])


def _alternate(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    return any(_walk(schema, schema[member["type"]], [step, *rest]) for member in entry["members"])


def _builtin(schema: Schema, entry: Entry, step: str, rest: Sequence[str]) -> bool:
    return step == f"!{entry['json-type']}" and not rest


_WALKS = {
    "command": _call,
    "event": _call,
    "object": _object,
    "enum": _enum,
    "array": _array,
    "alternate": _alternate,
    "builtin": _builtin,
}
