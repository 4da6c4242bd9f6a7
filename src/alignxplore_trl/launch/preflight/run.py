"""All checks of one recipe's run, in the order in which a person mends them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alignxplore_trl.launch.checks import context_length, generation_batch_size
from alignxplore_trl.launch.config import CheckName, RLConfig
from alignxplore_trl.launch.machine import Machine, this_machine
from alignxplore_trl.launch.memory import ModelShape, Scorer, estimate_memory
from alignxplore_trl.launch.model_files import FoundModel, NeededModel, find_models, read_shape
from alignxplore_trl.launch.preflight.batches import (
    Lengths,
    check_batch,
    check_lengths,
    measure_lengths,
)
from alignxplore_trl.launch.preflight.check import (
    Check,
    CheckedConfig,
    TrainingConfig,
    skipped,
)
from alignxplore_trl.launch.preflight.hardware import (
    check_devices,
    check_disk,
    check_gpus,
    check_memory,
    checkpoints_size,
)
from alignxplore_trl.launch.preflight.models import (
    check_judge,
    check_language_model,
    check_models,
    needed_models,
    policy_of,
    weights_here,
)
from alignxplore_trl.launch.preflight.software import check_tracking, check_versions, check_vllm
from alignxplore_trl.launch.training_memory import (
    LaunchFile,
    read_launch,
    reward_models,
    rollouts_of,
    training_step,
)
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say

# What is counted from the numbers of a trainer.
_OF_NUMBERS: tuple[CheckName, ...] = ("gpus", "batch", "lengths", "memory", "devices", "disk")


def run_checks(config: CheckedConfig, folder: Path, *, numbers: bool = True) -> list[Check]:
    """Make all checks of a run that aren't left out by `preflight.skip`.

    Args:
        config: of the recipe, read and checked.
        folder: the run's, whether it is there or not.
        numbers: whether those of the trainer can be; without, nothing is counted from them.
    """
    # First of all, so that memory in use is that of others.
    machine = this_machine(Path(config.paths.outputs))
    found = find_models(needed_models(config))
    checks = _unless_skipped(config, "versions", lambda: check_versions(config))
    checks += _unless_skipped(config, "models", lambda: check_models(found))
    if isinstance(config, TrainingConfig) and numbers:
        checks += _of_training(config, folder, machine, found)
    elif isinstance(config, TrainingConfig):
        why = "the trainer's numbers can't be: see configuration"
        checks += [skipped(name, why) for name in _OF_NUMBERS]
    checks += _unless_skipped(config, "judge", lambda: check_judge(config, found))
    checks += _unless_skipped(config, "language_model", lambda: check_language_model(config))
    return checks + _unless_skipped(config, "tracking", lambda: check_tracking(config))


def refuse_or_say(config: CheckedConfig, folder: Path) -> None:
    """Make the checks at the start of a run, and say in one line that they passed.

    Raises:
        UserError: what failed, all at once.
    """
    checks = run_checks(config, folder)
    if failures := [check for check in checks if check.state == "FAIL"]:
        raise UserError([f"{check.name}: {check.told}" for check in failures])
    left = [check.name for check in checks if check.state == "SKIP"]
    without = f", without {', '.join(left)}" if left else ""
    say(f"{config.recipe}: {len(checks) - len(left)} checks passed{without}")


def _unless_skipped(
    config: CheckedConfig, name: CheckName, check: Callable[[], list[Check]]
) -> list[Check]:
    if name in config.preflight.skip:
        return [skipped(name, "left out by preflight.skip")]
    return check()


def _of_training(
    config: TrainingConfig,
    folder: Path,
    machine: Machine,
    found: dict[NeededModel, FoundModel],
) -> list[Check]:
    launch = read_launch(config.launch)
    policy = found.get(policy_of(config), FoundModel())
    tokenizer = weights_here(policy)
    lengths = None
    if tokenizer is not None and "lengths" not in config.preflight.skip:
        lengths = measure_lengths(config, tokenizer)
    shape, unknown = None, skipped("memory", "the policy's config.json isn't here: see models")
    if policy.config:
        try:
            shape = read_shape(policy.config, config.peft.lora)
        except UserError as error:
            unknown = skipped("memory", str(error))
    card = min((each.total for each in machine.cards), default=0)
    rows = lengths.rows if lengths and isinstance(config, RLConfig) else None

    def memory() -> list[Check]:
        has_cards = config.launch.use_cpu or len(machine.cards) >= launch.per_machine
        if not has_cards:
            return [skipped("memory", "there aren't cards enough to compare with: see gpus")]
        if shape is None:
            return [unknown]
        try:
            return _memory(config, shape, launch, machine, found, lengths)
        except UserError as error:  # A judge that can't be counted.
            return [skipped("memory", str(error))]

    def disk() -> list[Check]:
        if shape is None:
            return [skipped("disk", "the size of a checkpoint isn't known: see memory")]
        step = training_step(config, 1)
        kept = checkpoints_size(folder / "checkpoints")
        return check_disk(config, shape, step, launch, machine.free_disk, kept)

    def measured() -> list[Check]:
        if tokenizer is None:
            return [skipped("lengths", "the policy's tokenizer isn't on this machine: see models")]
        return check_lengths(config, lengths, tokenizer, context_length(tokenizer))

    checks = _unless_skipped(config, "gpus", lambda: check_gpus(config, launch, machine))
    checks += _unless_skipped(config, "batch", lambda: check_batch(config, rows))
    checks += _unless_skipped(config, "lengths", measured)
    checks += _unless_skipped(config, "memory", memory)
    checks += _unless_skipped(config, "devices", lambda: check_devices(config, launch, machine))
    checks += _unless_skipped(config, "disk", disk)
    tokens = _tokens(config, None)
    return checks + _unless_skipped(config, "vllm", lambda: check_vllm(config, shape, card, tokens))


def _memory(
    config: TrainingConfig,
    shape: ModelShape,
    launch: LaunchFile,
    machine: Machine,
    found: dict[NeededModel, FoundModel],
    lengths: Lengths | None,
) -> list[Check]:
    tokens = _tokens(config, lengths)
    step = training_step(config, tokens)
    rollouts, scorers = None, []
    if isinstance(config, RLConfig):
        prompt = tokens - config.trainer["max_completion_length"]
        rollouts = rollouts_of(config, generation_batch_size(config), prompt)
        models, reads_all = reward_models("reward", config.reward, config)
        for model in (each for each in models if each.weights):
            known = found.get(model, FoundModel()).config
            if known is None:
                return [skipped("memory", f"no estimate: {model.name} isn't here: see models")]
            batch_tokens = getattr(config.reward, "max_batch_tokens", config.judge.max_batch_tokens)
            scorers.append(Scorer(read_shape(known), config.judge.dtype, batch_tokens, reads_all))
    card = min((each.total for each in machine.cards[: launch.per_machine]), default=0)
    estimate = estimate_memory(
        shape, step, launch.sharding, rollouts=rollouts, scorers=tuple(scorers), card=card
    )
    trained = (
        f", {shape.trained / 1e6:.3g} of them trained" if shape.trained < shape.parameters else ""
    )
    told = (
        f"{shape.parameters / 1e6:.3g} million weights{trained}, {step.sequences} x {tokens} tokens"
    )
    return check_memory(estimate, launch, machine, use_cpu=config.launch.use_cpu, told=told)


def _tokens(config: TrainingConfig, lengths: Lengths | None) -> int:
    """The longest row of a training: as it was measured, or else as the limits allow."""
    if not isinstance(config, RLConfig):
        limit = int(config.trainer["max_length"])
        return min(limit, lengths.longest) if lengths else limit
    budget, completion = config.prompts.max_prompt_tokens, config.trainer["max_completion_length"]
    prompt = budget
    if lengths:
        # A later round's prompt also has what an earlier one wrote.
        earlier = completion if config.setting.rounds > 1 else 0
        prompt = min(budget, lengths.longest + earlier)
    return prompt + int(completion)
