"""Counter-based random numbers (Philox4x32-10): each draw depends only on its key and counter, not on earlier draws.

Source, also of the constants: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib

import numba
import numpy as np


def stream_key(*names: int | str) -> tuple[np.uint32, np.uint32]:
    """Return the Philox key of a named stream, for example ``stream_key(seed, "train", "episodes")``."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return np.uint32(int.from_bytes(digest[:4], "little")), np.uint32(int.from_bytes(digest[4:8], "little"))


@numba.njit(cache=True)
def philox_block(key0: np.uint32, key1: np.uint32, low: np.uint64, high: np.uint64) -> np.ndarray:
    """Return the four uint32 words at counter (low, high) of the stream with this key, (4,)."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = low & mask, low >> shift
    c2, c3 = high & mask, high >> shift
    k0, k1 = np.uint64(key0), np.uint64(key1)
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ k0,
            product1 & mask,
            (product0 >> shift) ^ c3 ^ k1,
            product0 & mask,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return np.array([c0, c1, c2, c3], np.uint64).astype(np.uint32)
