"""Sealing: what QEMU is told in secret travels encrypted under the domain's master key.

AES-256 in CBC mode with PKCS#7 padding, as QEMU's ``secret`` object takes it. The values are a few bytes of
passphrase, so clarity wins over speed; the key itself goes to QEMU in a file only it can read.
"""

#: bytes
KEY_SIZE = 32
BLOCK = 16


def _make_sbox() -> bytes:
    """Compute AES's substitution: the inverse in GF(2^8), then an affine map (FIPS 197, 5.1.1)."""
    box = bytearray(256)
    p = q = 1
    while True:
        p = p ^ (p << 1) & 0xFF ^ (0x1B if p & 0x80 else 0)
        for shift in (1, 2, 4):
            q ^= q << shift & 0xFF
        if q & 0x80:
            q ^= 0x09
        turned = q
        mixed = q
        for _ in range(4):
            turned = (turned << 1 | turned >> 7) & 0xFF
            mixed ^= turned
        box[p] = mixed ^ 0x63
        if p == 1:
            break
    box[0] = 0x63
    return bytes(box)


_SBOX = _make_sbox()


def _double(value: int) -> int:
    return value << 1 & 0xFF ^ (0x1B if value & 0x80 else 0)


def _expand(key: bytes) -> list[bytes]:
    """Return the round keys (FIPS 197, 5.2)."""
    words = [key[i : i + 4] for i in range(0, len(key), 4)]
    size = len(words)
    constant = 1
    for i in range(size, 4 * (size + 7)):
        word = words[-1]
        if i % size == 0:
            word = bytes(_SBOX[b] for b in word[1:] + word[:1])
            word = bytes((word[0] ^ constant, *word[1:]))
            constant = _double(constant)
        elif size > 6 and i % size == 4:
            word = bytes(_SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[i - size], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _mix(column: bytes) -> bytes:
    whole = column[0] ^ column[1] ^ column[2] ^ column[3]
    return bytes(column[i] ^ whole ^ _double(column[i] ^ column[(i + 1) % 4]) for i in range(4))


def _encrypt_block(block: bytes, keys: list[bytes]) -> bytes:
    state = _xor(block, keys[0])
    for key in keys[1:]:
        # substitute and shift the rows in one go: row r of the state is bytes r, r + 4, …
        state = bytes(_SBOX[state[(i + 4 * (i % 4)) % BLOCK]] for i in range(BLOCK))
        if key is not keys[-1]:
            state = b"".join(_mix(state[i : i + 4]) for i in range(0, BLOCK, 4))
        state = _xor(state, key)
    return state


def seal(key: bytes, vector: bytes, value: bytes) -> bytes:
    """Encrypt a value. The vector must be fresh for every value. Raises ValueError for wrong sizes."""
    if len(key) != KEY_SIZE or len(vector) != BLOCK:
        raise ValueError(f"a key of {KEY_SIZE} and a vector of {BLOCK} bytes are needed")
    keys = _expand(key)
    padding = BLOCK - len(value) % BLOCK
    padded = value + bytes([padding]) * padding
    sealed = b""
    last = vector
    for start in range(0, len(padded), BLOCK):
        last = _encrypt_block(_xor(padded[start : start + BLOCK], last), keys)
        sealed += last
    return sealed
