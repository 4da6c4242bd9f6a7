"""The table of families in docs/scaling.md: each row is what a stand-in of the family does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig

from alignxplore_trl.cases import Comparison, encode_signals
from alignxplore_trl.judging.encoding import before_answer
from alignxplore_trl.judging.local import LocalJudge
from alignxplore_trl.judging.protocol import Question
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.text.budget import PromptBudget
from alignxplore_trl.text.prompts import Prompts
from alignxplore_trl.training.models import load_policy, policy_tokenizer, save_model
from alignxplore_trl.training.rounds import RoundsConfig, RoundsTrainer
from rehearsal.stand_ins import FAMILIES, save_tokenizer, stand_in_model, stand_in_tokenizer

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    Question("What is a quark?" * 9, "Prefers short replies.", one, other)
    for one, other in [("A particle.", "There are six. " * 9), ("Six.", "Ask me about physics.")]
]


def documented() -> dict[str, list[str]]:
    """The rows of the table, by family."""
    text = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in FAMILIES}


def saved(name: str, folder: Path) -> str:
    tokenizer = stand_in_tokenizer(name)
    stand_in_model(name, tokenizer).save_pretrained(folder)
    save_tokenizer(name, tokenizer, folder)
    return str(folder)


def judged(folder: str) -> tuple[str, str, str]:
    """How its reasoning is closed, how the judge reads it, and whether it shares what is alike."""
    judge = LocalJudge(
        model=folder, prompts="default", dtype="float32", chat=True, minimum_label_mass=0.0,
        attn_implementation="sdpa",
    )  # fmt: skip
    tokenizer = judge.tokenizer
    try:
        start = before_answer(tokenizer, "?", chat=True)
    except UserError as error:
        with pytest.raises(UserError, match="channels"):
            judge.judge(QUESTIONS)
        refused = error.problems[0].partition(": ")[2].partition(",")[0]
        return "in channels", f"refused: {refused}", "–"
    judge.load()
    together = judge.judge(QUESTIONS * 2)
    alone = [judge.judge([question])[0] for question in QUESTIONS]
    for one, other in zip(together, alone * 2, strict=True):
        assert one is not None
        assert other is not None
        assert abs(one.probability_a - other.probability_a) < 1e-4
    message = [{"role": "user", "content": "?"}]
    asked = tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    closed = "by its template" if start == asked else "here"
    thinking = closed if start.rstrip().endswith("</think>") else "none"
    return thinking, "yes", "yes" if judge.reader.shares else "read plainly"


def reward(completions: list[str], **columns: Any) -> list[float | None]:
    """The rollouts of a group differ, whatever they are."""
    digests = (hashlib.sha256(f"{n}{text}".encode()) for n, text in enumerate(completions))
    return [float(digest.digest()[0]) for digest in digests]


def trained(folder: str, out: Path, how: str) -> tuple[str, str]:
    """One step of GRPO on adapters, merged and saved; and whether the update shared prompts."""
    attention, _, option = how.partition(", rl.")
    tokenizer = policy_tokenizer(folder)
    budget = PromptBudget(Prompts("default"), tokenizer, 8192)
    signals = [Comparison("What is a quark?", "A particle.", "There are six.")] * 2

    args = RoundsConfig(
        str(out / "checkpoints"), max_steps=1, num_generations=4, per_device_train_batch_size=4,
        max_completion_length=12, learning_rate=1e-2, report_to="none", use_cpu=True, bf16=False,
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, loss_type="grpo",
        **{name: float(value) for name, _, value in [option.partition("=")] if name},
    )  # fmt: skip
    row = {"case_id": "1", "user_id": "1", "round": 1, "signals": encode_signals(signals)}
    rows = Dataset.from_list([row | {"prompt": budget.fit("inference", signals).text}])
    policy = load_policy(folder, "float32", attention, None, args, adapters=True)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = RoundsTrainer(
        policy, reward, args, rows, tokenizer, rounds=1, peft_config=lora,
        prompt_with=lambda *_: budget.fit("inference", signals),  # Of later rounds.
    )  # fmt: skip
    trainer.train()
    adapters = [w for n, w in trainer.model.named_parameters() if "lora_B" in n]
    assert all(weight.abs().sum() > 0 for weight in adapters), "a step reached all adapters"
    save_model(trainer, tokenizer, out / "model", "merged", "float32", {"max_new_tokens": 12})
    load_policy(str(out / "model"), "float32", attention, None, args, adapters=False)
    return "yes" if trainer.shares else "read plainly", how


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_does_what_the_table_says(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / "stand_in")
    # transformers has no sdpa for it; TRL looks for its experts under another name.
    special = {"gpt_oss": "eager", "granitemoehybrid": "sdpa, rl.router_aux_loss_coef=0"}
    how = special.get(FAMILIES[name]["architecture"], "sdpa")
    found = [*judged(folder), *trained(folder, tmp_path, how)]
    assert found == documented()[name][2:]


def test_the_table_names_each_family() -> None:
    rows = documented()
    assert list(rows) == list(FAMILIES)
    for name, family in FAMILIES.items():
        nearest = "nearest" if family.get("nearest") else "own"
        assert rows[name][:2] == [f"`{family['architecture']}`", nearest]
