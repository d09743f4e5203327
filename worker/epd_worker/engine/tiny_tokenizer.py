"""The tokenizer and the chat template of the tiny models.

A byte-level BPE of exactly 512 tokens, trained in a moment on a few sentences: every text has
tokens, and no random weight can emit an id that is none. One ChatML template serves all families;
they differ in how an image is written. Tools are offered and called in the Hermes form, so that
vLLM's `hermes` tool parser reads the calls.
"""

from typing import Any, Final

VOCABULARY_SIZE: Final = 512
CONTEXT_TOKENS: Final = 4096

PAD: Final = "<|endoftext|>"
END_OF_TURN: Final = "<|im_end|>"
VISION_START: Final = "<|vision_start|>"
VISION_END: Final = "<|vision_end|>"
QWEN_IMAGE: Final = "<|image_pad|>"
QWEN_VIDEO: Final = "<|video_pad|>"
LLAVA_IMAGE: Final = "<image>"

# Dropped from text that is decoded for people, as in the published models.
_SPECIAL: Final = (
    PAD,
    "<|im_start|>",
    END_OF_TURN,
    VISION_START,
    VISION_END,
    QWEN_IMAGE,
    QWEN_VIDEO,
    LLAVA_IMAGE,
)
# One token each, but kept in the text, because vLLM's tool and reasoning parsers look for them.
_MARKUP: Final = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

_CORPUS: Final = (
    "The quick brown fox jumps over the lazy dog while the rain falls on the old harbour.",
    "You are a helpful assistant. Answer the question of the user in a few short words.",
    "Describe the image in detail. What is shown in the picture? How do the two differ?",
    "A red square and a green circle lie on a blue background, next to a yellow triangle.",
    "First the images are encoded, then the prompt is prefilled, and then tokens are decoded.",
    "Once upon a time there was a small town by the sea, where every child knew all the birds.",
    'Call a function: {"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "In the morning, before the market opens, she counts 1 2 3 4 5 6 7 8 9 10 boxes of apples.",
    "Nothing is lost, nothing is doubled: each answer arrives complete and in the right order.",
)

_CHAT_TEMPLATE: Final = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for part in content -%}
            {%- if part.type in ('image', 'image_url') -%}
                {{- '@IMAGE@' -}}
            {%- elif part.type == 'video' -%}
                {{- '@VIDEO@' -}}
            {%- elif 'text' in part -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set system = namespace(text='') -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system.text = text_of(messages[0].content) -%}
{%- endif -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if system.text -%}{{- system.text + '\\n\\n' -}}{%- endif -%}
    {{- 'Tools you may call, one JSON object a line:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
    {{- '\\n</tools>\\nTo call one, write:\\n<tool_call>\\n' -}}
    {{- '{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' -}}
{%- elif system.text -%}
    {{- '<|im_start|>system\\n' + system.text + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'system' and loop.first -%}
        {#- written above, together with the tools -#}
    {%- elif message.role == 'tool' -%}
        {%- set opens = loop.first or loop.previtem.role != 'tool' -%}
        {%- set closes = loop.last or loop.nextitem.role != 'tool' -%}
        {{- '<|im_start|>user' if opens else '' -}}
        {{- '\\n<tool_response>\\n' + text_of(message.content) + '\\n</tool_response>' -}}
        {{- '<|im_end|>\\n' if closes else '' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + text_of(message.content) -}}
        {%- for call in message.tool_calls or [] -%}
            {%- set call = call.function or call -%}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
            {%- if call.arguments is string -%}
                {{- call.arguments -}}
            {%- else -%}
                {{- call.arguments | tojson -}}
            {%- endif -%}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def train_tokenizer(image: str, video: str = "") -> Any:
    """Train the tokenizer; return the transformers tokenizer, chat template included.

    Args:
        image: What the chat template writes for one image; empty for a text-only model.
        video: The same for one video.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(_MARKUP),
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS * 4, trainer)
    bpe.add_tokens([AddedToken(token, normalized=False) for token in _MARKUP])
    if (size := bpe.get_vocab_size()) != VOCABULARY_SIZE:
        raise ValueError(f"the corpus yields {size} tokens, not {VOCABULARY_SIZE}; lengthen it")
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[t for t in _SPECIAL if t not in (PAD, END_OF_TURN)],
        chat_template=_CHAT_TEMPLATE.replace("@IMAGE@", image).replace("@VIDEO@", video),
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def silent_token_ids(tokenizer: Any) -> list[int]:
    """Return the ids that the tiny models never emit on their own.

    A placeholder in an answer would make a replayed prompt ask for an image; an end of turn would
    cut answers at a random length. Grammars (JSON schema, forced tool calls) still may emit them.
    """
    return [int(i) for i in tokenizer.convert_tokens_to_ids([*_SPECIAL, *_MARKUP])]
