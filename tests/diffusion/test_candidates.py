"""The simple guesses between which the network chooses, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffusion.candidates import FEATURES, NAMES, candidates, features, mixed
from diffusion.evidence import no_evidence
from diffusion.models.chooser import Chooser


def clip(length: int = 9) -> torch.Tensor:
    return torch.rand(1, 4, length, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def guessed(frames: torch.Tensor) -> torch.Tensor:
    return candidates(frames, no_evidence(frames))


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_guesses_are_means_over_space_and_time(length: int) -> None:
    frames = clip(length)
    guesses = candidates(frames, no_evidence(frames))
    assert guesses.shape == (1, len(NAMES), *frames.shape[1:])
    assert torch.equal(guesses[:, 0], frames)
    blurred = gaussian_filter(frames[0, 1, 0].numpy(), 2.5, mode="nearest", truncate=3.2)
    assert np.allclose(guesses[0, 2, 1, 0], blurred, atol=1e-4)
    for t in range(length):
        around = frames[:, :, max(0, t - 3) : t + 4].mean(2)
        assert torch.allclose(guesses[:, 4, :, t], around, atol=1e-6)
        assert torch.allclose(guesses[:, 3, :, t], frames[:, :, max(0, t - 1) : t + 2].mean(2), atol=1e-6)


def test_a_sure_choice_gives_that_guess_and_an_even_one_the_mean() -> None:
    guesses = guessed(clip(3))
    logits = torch.zeros(1, len(NAMES), 3, 6, 8)
    assert torch.allclose(mixed(guesses, logits), guesses.mean(1), atol=1e-6)
    logits[:, 4] = 60.0
    assert torch.allclose(mixed(guesses, logits), guesses[:, 4], atol=1e-6)


def test_choices_differ_from_place_to_place() -> None:
    guesses = guessed(clip(3))
    logits = torch.zeros(1, len(NAMES), 3, 6, 8)
    logits[:, 0, :, :, :4] = 60.0
    logits[:, 2, :, :, 4:] = 60.0
    found = mixed(guesses, logits)
    assert torch.allclose(found[..., :12], guesses[:, 0][..., :12], atol=1e-5)
    assert torch.allclose(found[..., 20:], guesses[:, 2][..., 20:], atol=1e-5)


def test_features_say_how_far_guesses_lie_apart() -> None:
    still = clip(1).expand(-1, -1, 6, -1, -1)
    flickering = still + 0.2 * torch.tensor([1.0, -1.0] * 3).reshape(1, 1, 6, 1, 1)
    opacity = torch.ones(1, 1, 6, 24, 32)
    calm, wild = (
        features(guessed(frames), opacity, no_evidence(frames), 4) for frames in (still.contiguous(), flickering)
    )
    assert calm.shape == (1, FEATURES, 6, 6, 8)
    means = 3  # "mean of 7 frames" among the others
    assert torch.allclose(calm[:, means], torch.full_like(calm[:, means], 0.5 * np.log(1e-3) + 1.5), atol=1e-3)
    # away from the ends, seven frames of +-0.2 average to a seventh of it
    assert float(wild[0, means, 3].mean()) == pytest.approx(0.5 * np.log(0.2 + 1e-3) + 1.5, abs=0.1)
    clear = features(guessed(still), 0 * opacity, no_evidence(still), 4)
    assert (clear[:, -11:-8] > calm[:, -11:-8]).all()
    assert (calm[:, -8:] == torch.tensor([-1.0, 1.0, -1.0, -1.0] * 2).reshape(1, 8, 1, 1, 1)).all()


def test_an_untrained_chooser_mostly_keeps_the_clip() -> None:
    chooser = Chooser()
    guesses = guessed(clip(3))
    shares = chooser.logits(guesses, torch.ones(1, 1, 3, 24, 32), no_evidence(clip(3))).softmax(1)
    expected = np.exp(1.5) / (np.exp(1.5) + len(NAMES) - 1)
    assert torch.allclose(shares[:, 0], torch.full_like(shares[:, 0], expected), atol=1e-5)
