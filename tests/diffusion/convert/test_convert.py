"""The converter: full-size shapes, every kind of file it takes, and every kind that it refuses."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import as_safetensors, save
from parity_data import Parity
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModel

from diffusion.convert import write
from diffusion.convert.checkpoint import Checkpoint, sha256
from diffusion.convert.pieces import Shapes
from diffusion.convert.plan import Hints, Plan, find_problems, make_plan
from diffusion.convert.run import convert
from diffusion.convert.vae import plan_vae
from diffusion.convert.write import write_network
from diffusion.models.unet import RGBDVideoUNet
from diffusion.models.vae import make_vae
from diffusion.schedulers import RescaledDDIMScheduler

pytestmark = pytest.mark.slow


def networks(folder: Path) -> dict[str, Tensor]:
    """All weights of a pipeline folder, by "network/name"."""
    weights = {}
    for file in folder.glob("*/*.safetensors"):
        weights |= {f"{file.parent.name}/{name}": tensor for name, tensor in load_file(file).items()}
    return weights


# Full size


def test_every_full_size_tensor_converts_with_its_exact_shape(parity: Parity) -> None:
    shapes = parity.shapes("full")
    plan = make_plan(shapes, Hints())
    assert not find_problems(plan, shapes)
    used: set[str] = set()
    for network in plan.networks:
        used |= network.sources()
        converted = {
            name: piece.build(lambda source, n=network: torch.empty(shapes[n.prefix + source], device="meta"))
            for name, piece in network.pieces.items()
        }
        network.model.load_state_dict(converted, strict=True, assign=True)
    ignored = {name for names in plan.ignored.values() for name in names}
    assert used | ignored == set(shapes) and not used & ignored
    assert len(shapes) == 2520
    sizes = {n.folder: (len(n.model.state_dict()), sum(p.numel() for p in n.model.parameters())) for n in plan.networks}
    assert sizes["unet"] == (1516, 1_438_854_980)
    assert sizes["resampler"][1] == 48_787_456
    assert sizes["image_encoder"][1] == 630_766_080
    assert sizes["vae"] == (248, 83_656_168)


def test_full_size_configurations_are_the_official_ones(parity: Parity) -> None:
    plan = make_plan(parity.shapes("full"), Hints())
    configs = {network.folder: network.model.config for network in plan.networks}
    with torch.device("meta"):
        default = RGBDVideoUNet().config
    for key, value in default.items():
        if not key.startswith("_"):
            assert configs["unet"][key] == value, key
    assert (configs["resampler"]["heads"], configs["resampler"]["dim_head"]) == (12, 64)
    assert configs["image_encoder"].num_attention_heads == 16
    assert configs["image_encoder"].image_size == 224


def test_the_tiny_configuration_is_inferred_from_the_tensors(parity: Parity, converted: Path) -> None:
    expected = parity.config["unet"]
    unet = json.loads((converted / "unet" / "config.json").read_text())
    assert unet["attention_head_dim"] == expected["num_head_channels"]
    widths = [expected["model_channels"] * factor for factor in expected["channel_mult"]]
    assert unet["block_out_channels"] == widths
    attended = [2**level in expected["attention_resolutions"] for level in range(len(widths))]
    assert [kind.startswith("CrossAttn") for kind in unet["down_block_types"]] == attended
    assert unet["layers_per_block"] == expected["num_res_blocks"]
    vae = json.loads((converted / "vae" / "config.json").read_text())
    for key, value in parity.config["vae"].items():
        assert vae[key] == value, key
    vision = json.loads((converted / "image_encoder" / "config.json").read_text())
    assert vision["patch_size"] == parity.config["vision"]["patch_size"]
    assert vision["image_size"] == parity.config["vision"]["image_size"]


# Files that it takes


def test_scheduler_follows_the_checkpoint(parity: Parity, converted: Path, tmp_path: Path) -> None:
    config = json.loads((converted / "scheduler" / "scheduler_config.json").read_text())
    assert (config["rescale_base"], config["rescale_steps"]) == (0.7, 400)
    assert config["timestep_spacing"] == "leading" and not config["clean_end"]
    bare = {k: v for k, v in parity.weights().items() if k != "scale_arr"}
    convert(save(bare, tmp_path / "a.ckpt"), tmp_path / "a", hints=parity.hints())
    assert RescaledDDIMScheduler.from_pretrained(tmp_path / "a" / "scheduler").config["rescale_base"] == 1.0


def test_scheduler_of_a_checkpoint_in_half_precision(parity: Parity, tmp_path: Path) -> None:
    halved = {k: v.half() for k, v in parity.weights().items()}
    convert(save(halved, tmp_path / "a.ckpt"), tmp_path / "a", hints=parity.hints())
    config = RescaledDDIMScheduler.from_pretrained(tmp_path / "a" / "scheduler").config
    assert (config["rescale_base"], config["rescale_steps"]) == (0.7, 400)


@pytest.mark.parametrize("mid_attention", [True, False])
@pytest.mark.parametrize("widths", [(32, 64), (64, 64, 96, 32)])
def test_autoencoders_of_other_sizes_are_inferred(widths: tuple[int, ...], mid_attention: bool) -> None:
    with torch.device("meta"):
        vae = make_vae(3, widths, layers_per_block=1, latent_channels=5, mid_attention=mid_attention)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    network = plan_vae(Shapes(shapes, "", "autoencoder"))
    for key, value in vae.config.items():
        if not key.startswith("_"):
            assert network.model.config[key] == value, key
    assert not find_problems(Plan([network], {}), shapes)


def as_deepspeed(state: dict[str, Tensor], path: Path) -> Path:
    prefixed = {f"_forward_module.{name}": tensor for name, tensor in state.items()}
    torch.save({"module": prefixed, "optimizer": None, "global_steps": 1}, path)
    return path


def as_plain(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def with_leftovers(state: dict[str, Tensor], path: Path) -> Path:
    names = (
        "model_ema.decay",
        "model_ema.diffusion_modeloutbias",
        "lvlb_weights",
        "logvar",
        "embedder.mean",
        "embedder.std",
        "embedder.model.attn_mask",
        "cond_stage_model.model.attn_mask",
        "first_stage_model.loss.logvar",
    )
    return save(state | {name: torch.zeros(3) for name in names}, path)


def with_old_fps_name(state: dict[str, Tensor], path: Path) -> Path:
    return save({k.replace("fps_embedding", "framestride_embed"): v for k, v in state.items()}, path)


def with_old_attention_names(state: dict[str, Tensor], path: Path) -> Path:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key: str) -> str:
        if not key.startswith("first_stage_model."):
            return key
        return re.sub(r"(attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}{old[m[2]]}.", key)

    renamed = {name(key): tensor for key, tensor in state.items()}
    assert any(".proj_attn." in key for key in renamed)
    return save(renamed, path)


@pytest.mark.parametrize(
    "write_file",
    [as_safetensors, as_deepspeed, as_plain, with_leftovers, with_old_fps_name, with_old_attention_names],
)
def test_all_kinds_of_files_give_the_same_weights(
    write_file: Callable[[dict[str, Tensor], Path], Path], parity: Parity, converted: Path, tmp_path: Path
) -> None:
    file = write_file(parity.weights(), tmp_path / "other.ckpt")
    convert(file, tmp_path / "out", dtype="fp32", hints=parity.hints())
    ours, theirs = networks(tmp_path / "out"), networks(converted)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_learned_image_scale_goes_into_the_values(parity: Parity, converted: Path, tmp_path: Path) -> None:
    """Some DynamiCrafter files scale the image attention's result by 1 + tanh(alpha)."""
    state = parity.weights()
    names = [name for name in state if name.endswith("to_v_ip.weight")]
    alphas = {name.replace("to_v_ip.weight", "alpha"): torch.tensor(0.1 * i) for i, name in enumerate(names)}
    convert(save(state | alphas, tmp_path / "a.ckpt"), tmp_path / "out", dtype="fp32", hints=parity.hints())
    ours, theirs = networks(tmp_path / "out"), networks(converted)
    ratios = []
    for name, tensor in theirs.items():
        if "to_v_ip" in name:
            ratios.append(float((ours[name] / tensor).median()))
        else:
            assert torch.equal(ours[name], tensor), name
    expected = [float(1 + torch.tanh(alpha)) for alpha in alphas.values()]
    assert sorted(ratios) == pytest.approx(sorted(expected), rel=1e-5)


def test_half_precision_rounds_every_weight(checkpoint: Path, parity: Parity, converted: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out", dtype="fp16", hints=parity.hints())
    halves = networks(tmp_path / "out")
    for name, tensor in networks(converted).items():
        assert torch.equal(halves[name], tensor.half()), name
    loaded = RGBDVideoUNet.from_pretrained(tmp_path / "out" / "unet", torch_dtype=torch.float16)
    assert loaded.dtype == torch.float16


def test_shards_load_as_one(
    checkpoint: Path, parity: Parity, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Checkpoint(checkpoint)
    kinds = {"unet": RGBDVideoUNet, "image_encoder": CLIPVisionModel}
    for network in make_plan(file.shapes, parity.hints()).networks:
        if network.folder not in kinds:
            continue
        size = sum(f.stat().st_size for f in (converted / network.folder).glob("*.safetensors"))
        monkeypatch.setattr(write, "SHARD_BYTES", size // 3)
        monkeypatch.setattr(write, "MAPPED_BYTES", size // 5)
        write_network(network, file, tmp_path / network.folder, torch.float32, lambda count: None)
        assert len(list((tmp_path / network.folder).glob("*.safetensors"))) > 2
        kind = kinds[network.folder]
        whole, shards = (kind.from_pretrained(root / network.folder) for root in (converted, tmp_path))
        for (name, a), b in zip(whole.state_dict().items(), shards.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_the_model_card_names_source_and_licences(checkpoint: Path, converted: Path) -> None:
    card = (converted / "README.md").read_text()
    assert checkpoint.name in card and sha256(checkpoint) in card
    for licence in ("MIT", "Apache-2.0", "OpenRAIL"):
        assert licence in card


class RunsCode:
    """Pickled, it writes a file when it is read by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_pickled_objects_run_no_code(parity: Parity, converted: Path, tmp_path: Path) -> None:
    extra = {"callbacks": datetime.timedelta(1), "hook": RunsCode(tmp_path / "ran")}
    torch.save({"state_dict": parity.weights(), **extra}, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "out", "fp32", hints=parity.hints())
    assert not (tmp_path / "ran").exists()
    ours, theirs = networks(tmp_path / "out"), networks(converted)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_releasing_the_mapping_keeps_the_file_readable(checkpoint: Path, parity: Parity) -> None:
    file = Checkpoint(checkpoint)
    state = parity.weights()
    for name in list(state)[:3]:
        file.release()
        assert torch.equal(file.read(name), state[name])
