"""Loading a model installs nothing, and leaves processes as they were."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import transformers

from fv_lens.models.installing import without_installing
from fv_lens.models.load import load_model

from .. import tiny


@pytest.fixture
def with_images(tmp_path):
    """The folder of a tiny model for text and images."""
    text = tiny.GROUPED | dict(head_dim=16, sliding_window=8)
    images = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14
    )
    config = transformers.Gemma3Config(text_config=text, vision_config=images)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "images")
    tiny.tokenizer().save_pretrained(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def no_process(monkeypatch):
    """No torchvision, no uv, and no process is started."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    started = []

    def execute(process, args, *more):
        started.append(args)
        raise OSError("not in a test")

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    return started


@pytest.mark.slow
@pytest.mark.parametrize("uv", [None, "/usr/bin/uv"])
def test_a_model_with_images_installs_nothing_and_says_what_is_missing(with_images, no_process, monkeypatch, uv):
    monkeypatch.setattr(shutil, "which", lambda *args, **more: uv)
    with pytest.warns(UserWarning, match='which needs torchvision.*pip install torchvision "torch==2') as caught:
        model = load_model(with_images)
    assert not no_process and model.cfg.n_layers == 3
    assert sum("torchvision" in str(one.message) for one in caught) == 1
    popen = subprocess.Popen
    assert popen.__module__ == "subprocess", "what was replaced is put back"


@pytest.mark.parametrize(
    "args", [["uv", "pip", "install", "torchvision"], "pip install torchvision", [b"pip", b"install", b"x"]], ids=str
)
@pytest.mark.parametrize("run", [subprocess.run, subprocess.check_call, subprocess.call, subprocess.check_output])
def test_no_way_to_start_a_process_installs_anything(no_process, run, args):
    with pytest.warns(UserWarning, match="which needs"), without_installing():
        with pytest.raises(PermissionError):
            run(args)
    assert not no_process


def test_other_processes_may_start_while_a_model_is_loaded():
    with without_installing():
        assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True).stdout.strip() == b"7"


def test_loads_that_overlap_leave_processes_as_they_were(no_process):
    before = subprocess.Popen
    first, second = without_installing(), without_installing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(PermissionError):
        subprocess.run(["pip", "install", "x"])
    with pytest.warns(UserWarning, match="which needs x"):
        second.__exit__(None, None, None)
    assert subprocess.Popen is before and not no_process


def test_loads_that_overlap_in_two_threads_leave_processes_as_they_were():
    before, entered, leave = subprocess.Popen, threading.Event(), threading.Event()

    def load():
        with without_installing():
            entered.set()
            assert leave.wait(60)

    other = threading.Thread(target=load)
    with without_installing():
        other.start()
        assert entered.wait(60)
    assert subprocess.run(["echo", "install", "x"], capture_output=True).stdout == b"install x\n"
    leave.set()
    other.join()
    assert subprocess.Popen is before


def test_other_threads_may_install_while_a_model_is_loaded():
    with without_installing(), ThreadPoolExecutor() as pool:
        started = pool.submit(subprocess.run, ["echo", "install", "x"], capture_output=True)
        assert started.result().stdout == b"install x\n"


@pytest.mark.parametrize("form", [str, Path, os.fsencode, lambda path: [Path(path)], lambda path: iter([path])])
def test_a_command_may_have_every_form_that_popen_takes(form, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 7\n")
    program.chmod(0o755)
    with without_installing():
        assert subprocess.Popen(form(str(program)), stdout=subprocess.PIPE).communicate()[0] == b"7\n"
        with pytest.raises(TypeError):
            subprocess.Popen(3)
