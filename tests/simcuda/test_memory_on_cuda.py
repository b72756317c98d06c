"""What the repairer plans and does with a GPU's memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from simulated_cuda import SimTensor, simulated_cuda
from tiny_networks import BOTH, FUSION, LITE, OFFICIAL, tiny_pipeline

from diffusion.memory.blueprint import read_blueprint
from diffusion.memory.memory_plan import Run, plan_memory
from genfusion_ns.cameras import Camera
from genfusion_ns.errors import UserError
from genfusion_ns.loop.repairers.base import RGBDClip
from genfusion_ns.loop.repairers.diffusion import DiffusionRepairer, automatic_dtype


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    out = {}
    for configuration in (LITE, OFFICIAL, FUSION, BOTH):
        out[configuration.name] = tmp_path_factory.mktemp("weights") / configuration.name
        tiny_pipeline(configuration).to(torch.float16).save_pretrained(out[configuration.name])
    return out


def rendered(frames: int = 2, height: int = 16, width: int = 24) -> RGBDClip:
    random = torch.Generator().manual_seed(0)
    values = [torch.rand(frames, height, width, n, generator=random).to("cuda") for n in (3, 1, 1)]
    camera = Camera(torch.eye(4), torch.eye(3), width, height)
    return RGBDClip(values[0], 1 + values[1], values[2], cameras=[camera] * frames)


def repairer(folder: Path, **options) -> tuple[DiffusionRepairer, list[str]]:
    told: list[str] = []
    return DiffusionRepairer(str(folder), device="cuda", announce=told.append, steps=1, **options), told


PHOTO = torch.full((8, 8, 3), 0.5)


@pytest.mark.parametrize(
    ("capability", "official", "wanted"),
    [((8, 6), False, torch.bfloat16), ((7, 5), False, torch.float16), ((9, 0), True, torch.float16)],
)
def test_the_precision_follows_the_gpu_and_the_weights(capability, official, wanted):
    with simulated_cuda(capability):
        assert automatic_dtype(torch.device("cuda"), official) == wanted
    assert automatic_dtype(torch.device("cpu"), official) == torch.float32


def test_official_weights_repair_in_float16_without_warnings(cuda, folders, caplog):
    found, told = repairer(folders["tiny-official"])
    assert isinstance(found.repair(rendered(), PHOTO.to("cuda")).rgb, SimTensor)
    found.release()
    assert "float16" in told[0] and "bfloat16" not in told[0]
    assert "cannot run with" not in caplog.text
    assert not any(isinstance(p, SimTensor) for network in found._networks() for p in network.parameters())


def test_the_budget_is_what_is_free_and_each_size_has_its_plan(folders):
    with simulated_cuda(memory=(1 << 30, 8 << 30)):
        found, told = repairer(folders["tiny-fusion"])
        found.repair(rendered(), PHOTO.to("cuda"))
        found.repair(rendered(), PHOTO.to("cuda"))
        found.repair(rendered(frames=3), PHOTO.to("cuda"))
    assert [text.split(",")[0].split(": ")[1] for text in told] == ["2 frames of 24x16", "3 frames of 24x16"]
    budgets = [int(text.split(" of ")[-1].removesuffix(" MiB")) for text in told]  # of 1 GiB, in rounded MiB
    assert all(abs(budget - 0.9 * 1024) <= 2 for budget in budgets)


def test_modules_are_moved_off_where_memory_is_short(folders):
    smallest = plan_memory(read_blueprint(folders["tiny-lite"]), Run(2, 16, 24, torch.bfloat16, 1, False), budget=1)
    assert smallest.offload
    with simulated_cuda(memory=(int(smallest.peak / 0.9) + 10, 8 << 30)):
        found, told = repairer(folders["tiny-lite"])
        assert found.repair(rendered(), PHOTO.to("cuda")).rgb.isfinite().all()
        assert "moved off between uses" in told[0] and "NOT" not in told[0]
        found.release()
    assert not any(isinstance(p, SimTensor) for network in found._networks() for p in network.parameters())


def test_a_clip_that_is_too_long_is_repaired_in_parts_and_told(folders):
    whole = plan_memory(read_blueprint(folders["tiny-lite"]), Run(8, 16, 24, torch.bfloat16, 1, False), budget=1)
    with simulated_cuda(memory=(int((whole.peak - 1) / 0.9), 8 << 30)):
        clip = rendered(frames=8)
        first = RGBDClip(clip.rgb[:4], clip.depth[:4], clip.alpha[:4], cameras=clip.cameras[:4])
        found, told = repairer(folders["tiny-lite"])
        repaired = found.repair(clip, PHOTO.to("cuda"))
        alone = found.repair(first, PHOTO.to("cuda"))
    assert "clip of 8 frames of 24x16 does not fit" in told[1] and "so 4 frames are repaired at a time" in told[1]
    assert repaired.rgb.shape == clip.rgb.shape and repaired.confidence.shape == clip.alpha.shape
    torch.testing.assert_close(repaired.rgb[:4].cpu(), alone.rgb.cpu(), rtol=0.02, atol=0.02)
    torch.testing.assert_close(repaired.disparity[:4].cpu(), alone.disparity.cpu(), rtol=0.02, atol=0.02)


def test_too_little_free_memory_is_a_warning_and_a_budget_of_the_user_s_a_bound(folders, caplog):
    with simulated_cuda(memory=(1 << 18, 8 << 30)):
        found, told = repairer(folders["tiny-fusion"])
        assert found.repair(rendered(), PHOTO.to("cuda")).rgb.isfinite().all()
        assert "NOT enough" in told[0] and "Lower loop.max-side or loop.clip-length" in caplog.text
        with pytest.raises(UserError, match="the budget is 256KiB. Lower loop.max-side"):
            repairer(folders["tiny-fusion"], memory="256KiB")[0].repair(rendered(), PHOTO.to("cuda"))


def test_guidance_goes_only_to_weights_that_sample(cuda, folders):
    for name, wanted in (("tiny-fusion", 1.0), ("tiny-official", 2.2)):
        found, told = repairer(folders[name], guidance=2.2)
        found.repair(rendered(), PHOTO.to("cuda"))
        assert found.options["guidance_scale"] == wanted
        assert ("guidance on" in told[0]) == (wanted == 2.2)


def test_a_round_without_memory_is_skipped_with_a_message(capsys):
    from genfusion_ns.plugin.training_rounds import TrainingRounds

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 12.60 GiB.")

    saved: list[Path] = []
    pool = SimpleNamespace(save=saved.append)
    loop = SimpleNamespace(
        config=SimpleNamespace(is_round_due=lambda *_: False),
        round=full,
        state=SimpleNamespace(pool=pool, unfinished=False),
    )
    rounds = TrainingRounds(loop, SimpleNamespace(), lambda model: ([], []))  # type: ignore[arg-type]
    model = SimpleNamespace(render=None, trained_splats=lambda: None)
    rounds.run(model, Path("."), 9)  # type: ignore[arg-type]
    assert not loop.state.unfinished
    told = " ".join(capsys.readouterr().out.split())
    assert not saved and "12.60 GiB" in told
    for setting in ("loop.max-side", "loop.clip-length", "loop.diffusion.memory"):
        assert setting in told
