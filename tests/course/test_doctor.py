"""The doctor's report: what it says of a card, of room, of models and of data."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import pytest

from chapter01_baseline import rerank
from chapter04_catalogue_reranker import train_config
from common.catalogue.download import CHORUS_ICECAT
from course import doctor
from course.doctor import FULL_MODELS, Doctor, findings, main


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return a function that gives the findings of a profile, by subject, on a machine with nothing on it."""
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("COURSE_DATA_HOME", raising=False)
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: [])
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)

    def of(profile):
        found = {}
        for line in findings(profile):
            found.setdefault(line.subject, []).append((line.state, line.found))
        return found

    return of


def test_pocket_downloads_nothing(report):
    found = report("pocket")
    assert found["models, data"] == [("ok", "in the packages and in the course; nothing will be downloaded")]
    assert "model" not in found and "data" not in found
    assert found["profile"] == [("ok", "pocket")] and len(found["training"]) == len(found["embedding"]) == 1


def test_full_names_every_model_that_its_defaults_load(report):
    full = train_config.PROFILE_DEFAULTS["full"]
    loaded = {rerank.PROFILE_DEFAULTS["full"]["model"], full["text"], full["vision"]}
    assert {model.name for model in FULL_MODELS} == loaded
    said = " ".join(text for _, text in report("full")["model"])
    assert all(name in said for name in loaded)


def test_a_model_is_here_or_will_be_fetched_or_cannot_be(report, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert {state for state, _ in report("full")["model"]} == {"note"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    states = report("full")["model"]
    assert {state for state, _ in states} == {"warning"} and "HF_HUB_OFFLINE forbids" in states[0][1]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "model.safetensors")
    assert {state for state, _ in report("full")["model"]} == {"ok"}


def test_data_are_found_in_the_data_home_and_among_the_downloads(report, monkeypatch, tmp_path):
    def state():
        return next((state, text) for state, text in report("full")["data"] if text.startswith(CHORUS_ICECAT.folder))

    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    assert state()[0] == "note" and "COURSE_DATA_HOME" in state()[1] and CHORUS_ICECAT.page in state()[1]
    *downloaded, by_hand = CHORUS_ICECAT.files
    for root, files in ((tmp_path / "artifacts" / "downloads", downloaded), (tmp_path, [by_hand])):
        for file in files:
            path = root / CHORUS_ICECAT.folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert state()[0] == "ok"
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "nothing"))
    assert report("full")["data"][0][0] == "warning"


def test_a_card_that_torch_cannot_use_is_a_warning_in_red(report, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: ["Tesla K80, driver 470.1, 12206 MiB"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ((state, text),) = report("pocket")["NVIDIA card"]
    assert state == "warning" and "Tesla K80, driver 470.1" in text and "torch cannot use it" in text
    assert doctor.COLOURS["warning"] == "red"
    main(Doctor())
    assert re.search(r"NVIDIA card\s+│\s+warning", capsys.readouterr().out)


def test_a_card_newer_or_older_than_the_build_is_a_warning(report, monkeypatch):
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: ["Tesla K80, driver 470.1, 12206 MiB"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Tesla K80")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (3, 7))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_90"])
    states = [state for state, _ in report("pocket")["NVIDIA card"]]
    assert states == ["ok", "warning"]


@pytest.mark.parametrize(
    "capability, architectures, fits",
    [
        ((7, 5), ["sm_75"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((3, 7), ["sm_75", "compute_75"], False),
        ((9, 4), ["gfx942"], True),
    ],
)
def test_code_runs_on_cards_of_its_major_number_and_no_older_minor_one(capability, architectures, fits):
    assert doctor._compiled_for(*capability, architectures) is fits


def test_little_room_is_a_warning(report, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1024**3))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1024**3)
    found = report("pocket")
    assert found["free disk"][0][0] == found["free memory"][0][0] == "warning"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(report, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "ray" else name)
    assert report("pocket")["package"] == [
        ("note", "ray is missing, for embedding by several machines: pip install -e .[scale]")
    ]


def test_the_engine_is_that_of_the_profile_asked_for(report, monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("common.devices._is_x86", lambda: True)
    assert ", torch," in report("smoke")["embedding"][0][1] and ", openvino," in report("pocket")["embedding"][0][1]
