"""What the right answers are: greedy tokens and logprobs of one plain engine, by two programs.

    python reference_engines.py {hf|vllm} MODEL_DIR QUESTIONS.json ANSWERS.json

`hf` is Hugging Face transformers in float32, `vllm` is an unmodified one-engine vLLM. A question
is {"messages": OpenAI messages, "max_tokens": int}; an answer {"token_ids", "logprobs"}. Run as
a program of its own, so that neither torch nor vLLM is ever loaded into the tests' process.
"""

import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

THREADS = 1


def hugging_face_answers(model_dir: Path, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer with transformers, one question at a time."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    torch.set_num_threads(THREADS)
    sees = hasattr(AutoConfig.from_pretrained(model_dir), "vision_config")
    family = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model = family.from_pretrained(model_dir, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    answers = []
    for question in questions:
        messages, images = without_pixels(question["messages"])
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[prompt], **({"images": images} if images else {}))
        inputs = inputs.convert_to_tensors("pt")
        with torch.no_grad():
            output = model.generate(
                **inputs,
                max_new_tokens=question["max_tokens"],
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        token_ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        scores = torch.stack(output.logits, dim=1)[0].float().log_softmax(dim=-1)
        logprobs = [scores[step, token].item() for step, token in enumerate(token_ids)]
        answers.append({"token_ids": token_ids, "logprobs": logprobs})
    return answers


def vllm_answers(model_dir: Path, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer with vLLM's own offline engine, all questions in one batch."""
    os.environ |= {
        "VLLM_PLUGINS": "none",  # without ours: this is what ours is compared with
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(THREADS),
    }
    from vllm import LLM, SamplingParams
    from vllm.model_executor.models import registry

    # Its own process would lack torchvision's operators, and take seconds to import vLLM again.
    registry._run_in_subprocess = lambda inspect: inspect()
    engine = LLM(
        str(model_dir),
        dtype="float32",
        enforce_eager=True,
        max_model_len=4096,
        kv_cache_memory_bytes=64 << 20,
        distributed_executor_backend="uni",
        disable_log_stats=True,
    )
    answers = []
    sampling = [
        SamplingParams(temperature=0, max_tokens=question["max_tokens"], logprobs=0)
        for question in questions
    ]
    conversations = [question["messages"] for question in questions]
    for output in engine.chat(conversations, sampling, use_tqdm=False):
        token_ids = list(output.outputs[0].token_ids)
        steps = output.outputs[0].logprobs
        logprobs = [step[token].logprob for step, token in zip(steps, token_ids, strict=True)]
        answers.append({"token_ids": token_ids, "logprobs": logprobs})
    return answers


def without_pixels(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Split OpenAI messages into what a chat template sees and the images, in order."""
    from PIL import Image

    images = []
    seen = []
    for message in messages:
        parts = message["content"]
        if not isinstance(parts, str):
            parts = list(parts)
            for position, part in enumerate(parts):
                if part["type"] == "image_url":
                    encoded = part["image_url"]["url"].partition(";base64,")[2]
                    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                        images.append(image.convert("RGB"))
                    parts[position] = {"type": "image"}
        seen.append({**message, "content": parts})
    return seen, images


def main() -> None:
    """Answer the questions of one file."""
    program, model_dir, questions, answers = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = "1"
    from epd_worker.engine import torchvision_cpu

    torchvision_cpu.apply()
    answer = {"hf": hugging_face_answers, "vllm": vllm_answers}[program]
    found = answer(Path(model_dir), json.loads(Path(questions).read_text()))
    Path(answers).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
