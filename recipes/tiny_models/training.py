"""Training the small models that ship, from nothing, on documents of the simulated world.

Small models do not learn to compare a reply with a description from whole judgements alone; they
stay at chance for many minutes. They do when the stages build on one another: which wordings
belong together, what a remark is to a description, and only then a whole judgement.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from documents import (
    Document,
    Skill,
    continuation,
    every_word,
    inference_document,
    judgement,
    named_wordings,
    rated_wordings,
    related_wordings,
    summary_document,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignxplore_trl.run.progress import progress
from alignxplore_trl.text.prompts import Prompts

PAD_TOKEN = "<|pad|>"
END_OF_TEXT = "<|end|>"
# Ordinary added tokens, not special ones: decoding leaves special tokens out, and a completion
# without its tags would earn reward 0 for ever.
TAGS = (
    "<think>", "</think>", "<answer>", "</answer>",
    "<post>", "<chosen>", "<rejected>", "<comment>", "<attributes>", "<earlier>", "<dimensions>",
    "<description>", "<response_a>", "<response_b>", "<selection>", "<reply>",
    "<remark>", "<pole>", "<rating>",
)  # fmt: skip
_ANY_TAG = re.compile("|".join(map(re.escape, (*TAGS, END_OF_TEXT))))

# Numbers of signals for which there are inference documents. A batch holds one number only, so that
# little of it is padding; the largest is eight rounds of four signals read at once.
SIGNALS_READ = (1, 2, 4, 8, 16, 32)

DocumentWriter = Callable[[random.Random], Document]


def build_tokenizer(prompts: Prompts, vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the world's language; no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _corpus(prompts, seed),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD_TOKEN, END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=END_OF_TEXT
    )


def build_model(
    shape: Mapping[str, int], tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """A randomly initialised model. At this width the usual 0.02 is too small to learn from."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["heads"],
            max_position_embeddings=shape["context"],
            initializer_range=shape["hidden_size"] ** -0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    stages: Sequence[Mapping[str, Any]],
    *,
    skill: Skill,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> None:
    """Train a model in place through its stages, at a constant rate that decays over the last 30 %.

    The loss is the mean over documents of the mean over the tokens a document teaches: with a mean
    over tokens, documents that teach many would outweigh the judgements, which teach one.

    Args:
        stages: each with its optimizer steps, and the shares of the kinds of documents in them.
        skill: of the writer of inference documents.
    """
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0, fused=True)
    schedule = [stage for stage in stages for _ in range(stage["steps"])]
    writers = document_writers(prompts, skill)
    model.train()
    for step, stage in enumerate(progress(schedule, "training", len(schedule))):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _rate(step, len(schedule))
        kinds = stage["documents"]
        kind = draw.choices(list(kinds), list(kinds.values()))[0]
        documents = [writers[kind](draw) for _ in range(batch_size)]
        document_loss(model, *encode_documents(tokenizer, documents)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and labels (-100 where nothing is taught): int64, (documents, length)."""
    texts = [text for document in documents for text, _ in document]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows, labels = [], []
    for document in documents:
        row: list[int] = []
        label: list[int] = []
        for _, taught in document:
            tokens = next(encoded)
            row += tokens
            label += tokens if taught else [-100] * len(tokens)
        rows.append(torch.tensor(row))
        labels.append(torch.tensor(label))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def document_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over documents of the token-mean NLL.

    Documents are padded on the right, so that causal attention never sees the padding.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    taught = targets != -100
    logits = model.lm_head(hidden[taught])
    losses = cross_entropy(logits, targets[taught], reduction="none")
    weights = (1 / taught.sum(1, keepdim=True)).expand_as(taught)[taught] / len(ids)
    return (losses * weights).sum()


def document_writers(prompts: Prompts, skill: Skill) -> dict[str, DocumentWriter]:
    """The kinds of document a stage may name."""
    return {
        "related": related_wordings,
        "named": named_wordings,
        "rated": rated_wordings,
        "rated_names": lambda draw: rated_wordings(draw, named_share=0.6),
        "judgement": lambda draw: judgement(draw, prompts),
        "continuation": lambda draw: continuation(draw, prompts),
        "summary": lambda draw: summary_document(draw, END_OF_TEXT),
    } | {
        f"{'guided' if guided else 'inference'}_{signals}": partial(
            inference_document,
            prompts=prompts,
            skill=skill,
            end_of_text=END_OF_TEXT,
            signals_read=signals,
            guided=guided,
        )
        for guided in (False, True)
        for signals in SIGNALS_READ
    }


def _rate(step: int, steps: int) -> float:
    """Warm-up over 50 steps, constant, then linear to zero over the last 30 %."""
    return min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))


def _corpus(prompts: Prompts, seed: int) -> Iterable[str]:
    draw = random.Random(seed)
    for _ in range(500):
        yield every_word()
        for writer in document_writers(prompts, Skill()).values():
            text = "".join(text for text, _ in writer(draw))
            yield _ANY_TAG.sub(" ", text)
