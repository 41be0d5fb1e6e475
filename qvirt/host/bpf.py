"""Which devices a control group of version 2 may open: a program in the kernel that looks them up in a map.

Program and map are libvirt's in kind and key, so that either daemon finds and changes what the other has
made: key major << 32 | minor (minor -1: any), value access << 16 | type. Nothing is kept here: the map is
found by the group's folder. Blocking; raises OSError.

The key does not tell a disk from a character device of the same number, as /dev/ram3 has that of /dev/null:
such two share an entry with both types and what either may.
"""

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

from qvirt.record import Record

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 0, 1, 2, 3, 4
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_BY_ID, _MAP_BY_ID, _INFO, _PROG_QUERY = 13, 14, 15, 16
_HASH = 1
_PROG_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6

BLOCK, CHAR = 1, 2
MKNOD, READ, WRITE = 1, 2, 4
_ANY = 0xFFFFFFFF

#: rules a map can hold at least
MAP_SIZE = 256

_libc = ctypes.CDLL(None, use_errno=True)


class Rule(Record):
    """A device that may be opened. minor: None for all of the major. access: READ | WRITE | MKNOD."""

    type: int
    major: int
    minor: int | None
    access: int = READ | WRITE

    @property
    def key(self) -> bytes:
        return struct.pack("<Q", self.major << 32 | (_ANY if self.minor is None else self.minor))

    @property
    def value(self) -> bytes:
        return struct.pack("<I", self.access << 16 | self.type)


def refusal() -> str | None:
    """Return why this kernel takes no such programs from us; None when it does."""
    try:
        fd, _ = _bpf(_MAP_CREATE, struct.pack("<IIIII", _HASH, 8, 4, 1, 0))
    except OSError as error:
        return error.strerror
    os.close(fd)
    return None


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = _libc.syscall(number, command, ctypes.byref(buffer), len(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, immediate)


def _program(map_fd: int) -> bytes:
    """Return the program: four lookups, exact first; a match lets through what it allows."""
    begin = [
        _instruction(0xBF, 6, 1),  # r6 = context
        _instruction(0x61, 7, 6, 0),  # r7 = access << 16 | type
        _instruction(0x61, 8, 6, 4),  # r8 = major
        _instruction(0x67, 8, immediate=32),  # r8 <<= 32
        _instruction(0x61, 9, 6, 8),  # r9 = minor
    ]
    every = [_instruction(0x18, 3, immediate=-1), _instruction(0, immediate=0)]  # r3 = 0xffffffff
    any_major = [_instruction(0x67, 3, immediate=32)]  # r3 <<= 32
    keys = [
        [_instruction(0xBF, 2, 8), _instruction(0x4F, 2, 9)],  # major, minor
        [*every, _instruction(0xBF, 2, 8), _instruction(0x4F, 2, 3)],  # major, any
        [*every, *any_major, _instruction(0xBF, 2, 9), _instruction(0x4F, 2, 3)],  # any, minor
        [_instruction(0xB7, 2, immediate=-1)],  # any, any
    ]
    words = list(begin)
    for key in keys:
        words += [
            *key,
            _instruction(0x7B, 10, 2, -8),  # *(stack - 8) = r2
            _instruction(0x18, 1, 1, immediate=map_fd),  # r1 = map
            _instruction(0),
            _instruction(0xBF, 2, 10),
            _instruction(0x07, 2, immediate=-8),  # r2 = stack - 8
            _instruction(0x85, immediate=1),  # r0 = lookup(r1, r2)
            _instruction(0x15, 0, 0, 15),  # not there: next
            _instruction(0x61, 1, 0, 0),  # r1 = value
            _instruction(0xBF, 3, 1),
            _instruction(0x57, 3, immediate=0xFFFF),
            _instruction(0xBF, 4, 7),
            _instruction(0x57, 4, immediate=0xFFFF),
            _instruction(0x5F, 3, 4),
            _instruction(0x15, 3, 0, 8),  # another type: next
            _instruction(0x77, 1, immediate=16),
            _instruction(0xBF, 2, 7),
            _instruction(0x77, 2, immediate=16),
            _instruction(0x5F, 1, 2),  # r1 = allowed & asked
            _instruction(0x1D, 1, 2, 1),  # all that is asked: allow
            _instruction(0x05, offset=2),  # next
            _instruction(0xB7, 0, immediate=1),
            _instruction(0x95),
        ]
    return b"".join([*words, _instruction(0xB7, 0, immediate=0), _instruction(0x95)])


def confine(folder: Path, rules: list[Rule]) -> None:
    """Let the processes of a group open these devices and no other."""
    size = max(MAP_SIZE, 2 * len(rules))
    map_fd, _ = _bpf(_MAP_CREATE, struct.pack("<IIIII", _HASH, 8, 4, size, 0))
    try:
        for rule in rules:
            _add(map_fd, rule)
        code = _program(map_fd)
        instructions = ctypes.create_string_buffer(code, len(code))
        licence = ctypes.create_string_buffer(b"GPL")
        program, _ = _bpf(
            _PROG_LOAD,
            struct.pack(
                "<IIQQIIQI",
                _PROG_CGROUP_DEVICE,
                len(code) // 8,
                ctypes.addressof(instructions),
                ctypes.addressof(licence),
                0,
                0,
                0,
                0,
            ),
        )
        try:
            group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _bpf(_PROG_ATTACH, struct.pack("<IIII", group, program, _ATTACH_CGROUP_DEVICE, 0))
            finally:
                os.close(group)
        finally:
            os.close(program)
    finally:
        os.close(map_fd)


def allow(folder: Path, rule: Rule) -> None:
    """Add a device to what a group may open, to what it may already.

    A map that is full, as libvirt's is with 64, gives way to a larger one, with a program of its own.
    """
    fd = _find_map(folder)
    try:
        _add(fd, rule)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        confine(folder, [*rules(folder), rule])
    finally:
        os.close(fd)


def deny(folder: Path, rule: Rule) -> None:
    """Take a device away again; open descriptors stay."""
    fd = _find_map(folder)
    try:
        before = _value(fd, rule.key)
        if before is not None and (left := before & 0xFFFF & ~rule.type):
            _put(fd, Rule(left, rule.major, rule.minor, before >> 16))
            return
        key = ctypes.create_string_buffer(rule.key, 8)
        _bpf(_MAP_DELETE, struct.pack("<IIQ", fd, 0, ctypes.addressof(key)))
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)


def rules(folder: Path) -> list[Rule]:
    """Return what a group may open."""
    fd = _find_map(folder)
    found: list[Rule] = []
    try:
        key: bytes | None = None
        while True:
            before = ctypes.create_string_buffer(key, 8) if key is not None else None
            after = ctypes.create_string_buffer(8)
            try:
                _bpf(
                    _MAP_NEXT,
                    struct.pack(
                        "<IIQQ", fd, 0, ctypes.addressof(before) if before is not None else 0,
                        ctypes.addressof(after),
                    ),
                )  # fmt: skip
            except FileNotFoundError:
                return found
            key = after.raw
            value = _value(fd, key)
            number = struct.unpack("<Q", key)[0]
            minor = number & _ANY
            found += [
                Rule(type, number >> 32, None if minor == _ANY else minor, value >> 16)
                for type in (BLOCK, CHAR)
                if value is not None and value & type
            ]
    finally:
        os.close(fd)


def _add(map_fd: int, rule: Rule) -> None:
    """Allow an access beside what is allowed already: a device may be there for more than one reason."""
    before = _value(map_fd, rule.key) or 0
    _put(map_fd, Rule(rule.type | before & 0xFFFF, rule.major, rule.minor, rule.access | before >> 16))


def _put(map_fd: int, rule: Rule) -> None:
    key, value = ctypes.create_string_buffer(rule.key, 8), ctypes.create_string_buffer(rule.value, 4)
    _bpf(_MAP_UPDATE, struct.pack("<IIQQQ", map_fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0))


def _value(map_fd: int, key: bytes) -> int | None:
    wanted, value = ctypes.create_string_buffer(key, 8), ctypes.create_string_buffer(4)
    try:
        _bpf(
            _MAP_LOOKUP,
            struct.pack("<IIQQQ", map_fd, 0, ctypes.addressof(wanted), ctypes.addressof(value), 0),
        )
    except FileNotFoundError:
        return None
    return int(struct.unpack("<I", value.raw)[0])


def _find_map(folder: Path) -> int:
    """Return a descriptor of the map that a group's program looks into. Raises FileNotFoundError."""
    group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ids = (ctypes.c_uint32 * 8)()
        _, answer = _bpf(
            _PROG_QUERY,
            struct.pack("<IIIIQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids)),
        )
    finally:
        os.close(group)
    if not struct.unpack_from("<I", answer, 24)[0]:
        raise FileNotFoundError(errno.ENOENT, "no device program is attached", str(folder))
    program, _ = _bpf(_PROG_BY_ID, struct.pack("<II", ids[0], 0))
    try:
        maps = (ctypes.c_uint32 * 4)()
        info = bytearray(256)
        struct.pack_into("<IQ", info, 52, len(maps), ctypes.addressof(maps))
        buffer = ctypes.create_string_buffer(bytes(info), 256)
        _bpf(_INFO, struct.pack("<IIQ", program, len(buffer), ctypes.addressof(buffer)))
    finally:
        os.close(program)
    if not maps[0]:
        raise FileNotFoundError(errno.ENOENT, "the device program has no map", str(folder))
    return _bpf(_MAP_BY_ID, struct.pack("<II", maps[0], 0))[0]
