"""Random numbers as a function of named keys, so that a resumed run draws what an unbroken one would."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*keys: int | str) -> int:
    """A 63-bit seed from any sequence of integers and words; the same on every machine and in every process."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator for, say, `generator(seed, "densify", step)`; draw on the CPU and move the numbers."""
    return torch.Generator().manual_seed(seed_of(*keys))


def order_index(count: int, seed: int, step: int, purpose: str) -> int:
    """Which of `count` items serves `step` [0, ...): every epoch of `count` steps is a fresh permutation.

    Raises:
        ValueError: count < 1.
    """
    if count < 1:
        raise ValueError(f"order_index needs at least one item to choose from, got {count}.")
    epoch, position = divmod(step, count)
    return int(torch.randperm(count, generator=generator(seed, purpose, epoch))[position])


def thinned_rows(count: int, most: int, random: torch.Generator) -> torch.Tensor:
    """Which of `count` items stay where at most so many may: [min(count, most)] by chance, ascending."""
    return torch.randperm(count, generator=random)[:most].sort().values
