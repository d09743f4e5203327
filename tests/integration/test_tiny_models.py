"""The tiny models: made once, mended when broken, and all that a chat needs of a tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

FOLDERS = {
    "qwen2_5_vl": "tiny-qwen2.5-vl",
    "qwen3_vl": "tiny-qwen3-vl",
    "llava": "tiny-llava",
    "text": "tiny-text",
}
IMAGE_MARKUP = {
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "llava": "<image>",
}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def make(out_dir: Path, *kinds: str) -> list[str]:
    done = run_python("-m", "epd_worker.engine.tiny_models", str(out_dir), *kinds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("models")
    make(out_dir)
    return out_dir


def test_a_second_run_keeps_every_model(models: Path) -> None:
    weights = {name: models / name / "model.safetensors" for name in FOLDERS.values()}
    before = {name: path.stat().st_mtime_ns for name, path in weights.items()}
    assert make(models) == [f"{name}: up to date" for name in FOLDERS.values()]
    assert {name: path.stat().st_mtime_ns for name, path in weights.items()} == before


def test_every_file_can_be_read_by_the_user_of_a_pod(models: Path) -> None:
    for path in models.glob("tiny-*/*"):
        assert path.stat().st_mode & 0o004, path


def test_a_broken_or_half_made_model_is_made_again_with_the_same_weights(models: Path) -> None:
    weights = models / "tiny-text" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    partial = models / ".tiny-text.partial"
    partial.mkdir()
    (partial / "config.json").write_text("{")
    assert make(models, "text")[0] == "tiny-text: making it"
    assert weights.read_bytes() == whole
    assert not partial.exists()


def test_a_model_of_another_recipe_is_made_again(models: Path) -> None:
    marker = models / "tiny-text" / "tiny-model.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"recipe": "an older one"}))
    assert make(models, "text")[0] == "tiny-text: making it"


def test_an_unknown_kind_is_one_line_with_the_known_ones(tmp_path: Path) -> None:
    done = run_python("-m", "epd_worker.engine.tiny_models", str(tmp_path), "gpt5")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "'gpt5' is not a valid TinyKind; known: qwen2_5_vl, qwen3_vl, llava, text"
    )


def test_an_output_directory_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    occupied = tmp_path / "models"
    occupied.write_text("")
    done = run_python("-m", "epd_worker.engine.tiny_models", str(occupied), "text")
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot make a tiny model in {occupied}: ")
    assert len(done.stderr.splitlines()) == 1


def test_any_text_survives_the_tokenizer_and_specials_are_single_tokens(models: Path) -> None:
    from tokenizers import Tokenizer

    text = "naïve 日本語 \U0001f44d\n\t{} <tool_call>{}</tool_call><think> \x00"
    for name in FOLDERS.values():
        tokenizer = Tokenizer.from_file(str(models / name / "tokenizer.json"))
        assert tokenizer.get_vocab_size() == 512
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
        for token in ("<|im_end|>", "<image>", "<|image_pad|>", "<tool_call>", "</think>"):
            assert tokenizer.encode(token).tokens == [token]


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_chat_template_writes_every_role_images_and_tools(models: Path, kind: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source = (models / FOLDERS[kind] / "chat_template.jinja").read_text()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    call = {"name": "clock", "arguments": {"zone": 1}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "noon"},
        {"role": "tool", "content": [{"type": "text", "text": "one"}]},
    ]
    rendered = environment.from_string(source).render(
        messages=messages, tools=[{"name": "clock"}], add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nBe brief.\n\n"
        'Tools you may call, one JSON object a line:\n<tools>\n{"name": "clock"}\n</tools>\n'
        "To call one, write:\n<tool_call>\n"
        '{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n'
        f"<|im_start|>user\n{IMAGE_MARKUP.get(kind, '')}When?<|im_end|>\n"
        "<|im_start|>assistant\n\n<tool_call>\n"
        '{"name": "clock", "arguments": {"zone": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nnoon\n</tool_response>"
        "\n<tool_response>\none\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_torchvision_works_beside_this_torch_and_declaring_twice_is_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # so that only the calls below count
    done = run_python(
        "-c",
        "from epd_worker.engine import torchvision_cpu as fix; fix.apply(); fix.apply()\n"
        "import torch, torchvision; fix.apply()\n"
        "from torchvision.transforms.v2 import functional\n"
        "print(tuple(functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape))",
    )
    assert (done.returncode, done.stdout) == (0, "(3, 4, 4)\n"), done.stderr


@pytest.mark.parametrize("first", ["torch", "torchvision", "epd_worker.engine.torchvision_cpu"])
def test_torchvision_works_in_a_process_that_knows_nothing_of_us(first: str) -> None:
    done = run_python("-c", f"import {first}; import torchvision; print('imported')")
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_operators_that_torchvision_brings_itself_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    done = run_python(
        "-c",
        "import torch\n"
        "theirs = torch.library.Library('torchvision', 'FRAGMENT')\n"
        "for name in ('nms', 'qnms'):\n"
        "    theirs.define(name + '(Tensor dets) -> Tensor')\n"
        "from epd_worker.engine import torchvision_cpu; torchvision_cpu.apply()\n"
        "print(torch.ops.torchvision.nms.default._schema)",
    )
    schema = "torchvision::nms(Tensor dets) -> Tensor\n"
    assert (done.returncode, done.stdout) == (0, schema), done.stderr
