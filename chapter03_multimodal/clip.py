"""Load CLIP models of open_clip in one way, wherever they come from, and save them so that open_clip loads them.

    clip = load_clip()                                 # the packaged pocket_clip
    clip = load_clip("lite0_minilm")                   # two pretrained towers that do not know each other yet
    clip = load_clip("runs/best")                      # a folder: config and safetensors
    clip = load_clip("ViT-B-32/laion2b_s34b_b79k")     # public weights, where there is a network
    images = clip.model.encode_image(torch.stack([clip.preprocess(picture)]))
    texts = clip.model.encode_text(clip.tokenise(["a blue chair"]))

Weights are read from safetensors only, because unpickling a file can run code in it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chapter03_multimodal.pretrained_towers import CONFIG as LITE0_MINILM_CONFIG
from chapter03_multimodal.pretrained_towers import Tokeniser, load_pretrained, text_tower_here
from common.artifacts import fingerprint
from common.atomic import atomic_write, read_json, write_json
from common.encoders import packaged_minilm
from common.errors import CourseError

CHAPTER = "chapter03_multimodal"
POCKET_CLIP = "pocket_clip"
LITE0_MINILM = "lite0_minilm"
CONFIG, WEIGHTS = "open_clip_config.json", HF_SAFE_WEIGHTS_NAME
ADVICE = f"check the network, give a folder with the model, or use {POCKET_CLIP!r}."
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Clip:
    """A CLIP model and the functions that prepare its inputs. Make one with `load_clip`."""

    model: nn.Module
    """Float32, in evaluation mode, on the CPU: `encode_image(pixels)` and `encode_text(tokens)` give [N, D], not
    normalised; `logit_scale` is the logarithm of 1 / temperature."""
    preprocess: Callable[[Image.Image], Tensor]
    """Makes an RGB picture float [3, S, S], as for evaluation."""
    tokenise: Callable[[list[str]], Tensor]
    """Makes N texts long [N, L], truncated and padded to L tokens."""
    config: dict[str, Any]
    """Content of `open_clip_config.json`: "model_cfg", the architecture, and "preprocess_cfg"."""
    name: str
    """Name that it was loaded by, for people."""
    digest: str
    """Of config and weights as they were loaded; weights changed in place need a `save_clip` and a `load_clip`."""

    @property
    def dimension(self) -> int:
        """Return D, the length of the vectors."""
        return self.config["model_cfg"]["embed_dim"]


def load_clip(name: str | Path = POCKET_CLIP) -> Clip:
    """Load a CLIP model.

    name: "pocket_clip", the packaged one; "lite0_minilm", EfficientNet-Lite0 and MiniLM with projections that are not
    trained yet (`chapter03_multimodal.align` trains them); a folder with open_clip_config.json and
    open_clip_model.safetensors (or one safetensors file of another name); or "architecture/tag" of public weights that
    open_clip knows and the hub has as safetensors.

    Raises CourseError if it is not found, has no safetensors weights, or weights that do not fit its config or are cut
    short.
    """
    folder = Path(name).expanduser()
    if name == LITE0_MINILM:
        return _pretrained_towers()
    if name == POCKET_CLIP:
        folder = Path(__file__).with_name(POCKET_CLIP)
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise CourseError(
                f"{CHAPTER}/{POCKET_CLIP}: the packaged model is not there; make it, in an hour on two cores, with:\n"
                f"python -m {CHAPTER}.studies.pretrain --output {CHAPTER}/{POCKET_CLIP}"
            )
    return _from_folder(folder) if folder.is_dir() else _published(str(name))


def new_clip(architecture: str, *, seed: int = 0) -> Clip:
    """Build an untrained model of an architecture that open_clip knows ("ViT-B-32")."""
    model_cfg = _architecture(architecture)
    with _quietly():
        torch.manual_seed(seed)
        model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False)
        tokenise = open_clip.get_tokenizer(architecture)
    return _clip(model, tokenise, model_cfg, architecture)


def resized(clip: Clip, side: int) -> Clip:
    """Return a copy that takes squares of `side` pixels, with the same weights; its digest is another.

    Raises CourseError for an image tower that is not of timm: the weights of a transformer of open_clip fit one size.
    """
    if not isinstance(clip.model.visual, TimmModel):
        raise CourseError(f"{clip.name}: its image tower takes pictures of one size only.")
    model = deepcopy(clip.model)
    model.visual.image_size = model.visual.preprocess_cfg["size"] = (side, side)
    model_cfg = {
        **clip.config["model_cfg"],
        "vision_cfg": {**clip.config["model_cfg"]["vision_cfg"], "image_size": side},
    }
    return _clip(model, clip.tokenise, model_cfg, clip.name)


def save_clip(clip: Clip, folder: str | Path, half: bool = False) -> None:
    """Write a folder that `load_clip` and `open_clip.create_model_and_transforms("local-dir:<folder>")` load.

    half: save weights as float16, in half the space; else they load to the same bits. A model that is in the folder
    already is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in clip.model.state_dict().items()}
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    if hasattr(clip.tokenise, "save_pretrained"):  # else it is open_clip's own, which needs no files
        clip.tokenise.save_pretrained(folder)
    write_json(folder / CONFIG, clip.config)
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)


def _from_folder(folder: Path) -> Clip:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(
        config.get("model_cfg") or ()
    ):
        raise CourseError(f"{folder / CONFIG}: has no 'model_cfg' with embed_dim, vision_cfg and text_cfg.")
    text_cfg = _text_cfg(config["model_cfg"], str(folder / CONFIG))
    file = _weights_file(folder)
    try:
        weights = load_file(file)
    except Exception as error:  # safetensors raises its own, and OS errors
        raise CourseError(f"{file}: cannot be read, it is cut short or damaged ({error}); save it again.") from None
    try:
        with _quietly():
            model = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, text_cfg=text_cfg
            )
            tokenise = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # a wrong config fails anywhere in open_clip
        raise CourseError(f"{folder / CONFIG}: open_clip cannot build this model ({error}).") from error
    mine = model.state_dict()
    wrong = sorted(mine.keys() ^ weights.keys()) or [key for key in mine if mine[key].shape != weights[key].shape]
    if wrong:
        raise CourseError(
            f"{file}: the weights do not fit {CONFIG} (first difference: {wrong[0]}); save both together."
        )
    model.load_state_dict(weights)
    return _clip(model, tokenise, config["model_cfg"], folder.resolve().name)


def _pretrained_towers() -> Clip:
    """Put the two pretrained towers together; the projection of the pictures is drawn, always the same."""
    with TemporaryDirectory() as folder, _quietly():
        write_json(Path(folder) / CONFIG, LITE0_MINILM_CONFIG)
        model_cfg = LITE0_MINILM_CONFIG["model_cfg"]
        torch.manual_seed(0)
        model = open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=False,
            pretrained_text=False,
            text_cfg=_text_cfg(model_cfg, LITE0_MINILM),
        )
        load_pretrained(model)
        tokenise = open_clip.tokenizer.HFTokenizer(
            str(packaged_minilm()), context_length=model_cfg["text_cfg"]["context_length"]
        )
    return _clip(model, tokenise, model_cfg, LITE0_MINILM)


def _weights_file(folder: Path) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise CourseError(f"{folder}: has several safetensors files; name the right one {WEIGHTS}.")
    pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    if pickled:
        raise CourseError(
            f"{folder}: {pickled[0]} is a pickle, and reading a pickle can run code; save the weights as {WEIGHTS}."
        )
    raise CourseError(f"{folder}: has no {WEIGHTS}.")


def _published(name: str) -> Clip:
    architecture, _, tag = name.partition("/")
    if not architecture or not tag or "/" in tag or name.startswith((".", "~")):
        raise CourseError(
            f"{name!r} is no folder with a model and no open_clip name (architecture/tag, such as "
            f"ViT-B-32/laion2b_s34b_b79k); the packaged model is {POCKET_CLIP!r}."
        )
    model_cfg = _architecture(architecture)
    source = get_pretrained_cfg(architecture, tag)
    if not source:
        known = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise CourseError(f"{name}: open_clip knows no weights {tag!r} of {architecture}; it knows: {known}.")
    file = _download(name, source)
    # The weights' entry names the activation they were trained with; open_clip would build another with a warning.
    quick = bool(source.get("quick_gelu"))
    preprocess = merge_preprocess_dict({}, source)
    try:
        with _quietly():
            model = open_clip.create_model(
                architecture, str(file), force_quick_gelu=quick, force_preprocess_cfg=preprocess, pretrained_text=False
            )
            tokenise = open_clip.get_tokenizer(architecture)
    except Exception as error:  # a damaged file, or a tokeniser that cannot be fetched
        raise CourseError(f"{name}: open_clip cannot load it ({error}); {ADVICE}") from error
    return _clip(model, tokenise, model_cfg | ({"quick_gelu": True} if quick else {}), name)


def _architecture(name: str) -> dict[str, Any]:
    model_cfg = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if model_cfg is None:
        near = get_close_matches(name, open_clip.list_models(), n=5, cutoff=0.5)
        hint = f"near it are: {', '.join(near)}" if near else "open_clip.list_models() has them all"
        raise CourseError(f"{name!r} is no architecture of open_clip, and no folder of that name is here; {hint}.")
    if "hf_model_name" in model_cfg["text_cfg"]:
        raise CourseError(f"{name}: its text tower needs the hub; choose a model whose text tower is open_clip's own.")
    return model_cfg


def _text_cfg(model_cfg: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the config of the text tower; one of transformers must be the packaged MiniLM, else `CourseError`."""
    if "hf_model_name" not in model_cfg["text_cfg"]:
        return model_cfg["text_cfg"]
    try:
        return text_tower_here(model_cfg["text_cfg"])
    except CourseError as error:
        raise CourseError(f"{name}: {error}") from None


def _download(name: str, source: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    repository, _, file = source.get("hf_hub", "").rpartition("/")
    if not repository:
        raise CourseError(f"{name}: these weights are published as a pickle only; choose others.")
    safe = WEIGHTS if file in ("", HF_WEIGHTS_NAME) else Path(file).with_suffix(".safetensors").name
    try:
        return Path(hf_hub_download(repository, safe))
    except Exception as error:  # the hub's client raises its own, HTTP's and OS errors
        raise CourseError(
            f"{name}: {safe} cannot be fetched from {repository} on the hub ({type(error).__name__}); {ADVICE}"
        ) from error


def _clip(model: nn.Module, tokenise: Any, model_cfg: dict[str, Any], name: str) -> Clip:
    preprocess_cfg = model.visual.preprocess_cfg
    if isinstance(tokenise, open_clip.tokenizer.HFTokenizer):
        tokenise = Tokeniser(tokenise)
    if isinstance(model.visual, TimmModel):  # in batches of 32 or more a CPU convolves faster so
        model.visual.to(memory_format=torch.channels_last)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    digest = sha256(fingerprint(config).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    return Clip(model.eval(), preprocess, tokenise, config, name, digest.hexdigest()[:16])


@contextmanager
def _quietly() -> Iterator[None]:
    """Build a model without log messages, and without drawing from the caller's random numbers.

    open_clip logs through functions that install a handler on the root logger if it has none.
    """
    root, silent, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(silent)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
