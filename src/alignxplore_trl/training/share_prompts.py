"""TRL's policy update with the prompt of a group computed once instead of once for each rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.progress import say
from alignxplore_trl.shared_prefix import ATTENTION, row_of, why_not

Batch = dict[str, Any]


class SharesPrompts(GRPOTrainer):
    """`GRPOTrainer` that computes texts with the same prompt in one row, see `shared_prefix`.

    `args.share_prompts` is true, false or auto: where it can be done, and else the plain way with a
    line that says why. It holds for all log-probabilities, and goes through TRL's own loss.
    """

    shares: bool | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        if self.shares is None:
            self.shares = self._decide()
        batch: Batch = super()._generate_and_score_completions(inputs)
        if not self.shares:
            return batch
        # TRL shuffles and splits along the first dimension: of groups from here on.
        return _each(batch, lambda t: t.unflatten(0, (-1, self.num_generations)))

    def compute_loss(self, model: Any, inputs: Batch, *rest: Any, **named: Any) -> torch.Tensor:
        """TRL's loss of a micro-batch."""
        inputs = _each(inputs, lambda t: t.flatten(0, 1)) if self.shares else inputs
        loss: torch.Tensor = super().compute_loss(model, inputs, *rest, **named)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> Any:
        given = (model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy)
        if not self.shares:
            return super()._get_per_token_logps_and_entropies(*given, **others)
        parts = (each.split(batch_size or len(each)) for each in (input_ids, attention_mask))
        found = [self._of_row(model, i, m, logits_to_keep) for i, m in zip(*parts, strict=True)]
        log_probs, entropies = (torch.cat(values) for values in zip(*found, strict=True))
        return log_probs, entropies if compute_entropy else None, None

    def _of_row(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int) -> Any:
        """Log-probabilities and entropies of completions, (texts, kept), computed in one row."""
        by_prompt: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for number, (text, there) in enumerate(zip(ids, mask.bool(), strict=True)):
            prompt, own = text[:-kept][there[:-kept]], text[-kept:][there[-kept:]]
            by_prompt.setdefault(tuple(prompt.tolist()), {})[number] = own.tolist()
        texts = [([*p, *t], len(t)) for p, own in by_prompt.items() for t in own.values()]
        shared = [len(p) - 1 if n else 0 for p, own in by_prompt.items() for n in range(len(own))]
        row = row_of(texts, shared, device=ids.device)
        with self.accelerator.autocast():
            out = model(**row.inputs, shift_labels=row.labels, fused_lm_head=True)
        # Where each text's tokens are in the row; those that it hasn't got, anywhere.
        first = torch.empty(len(ids), 1, dtype=torch.long, device=ids.device)
        numbers = [number for own in by_prompt.values() for number in own]
        first[numbers, 0] = torch.tensor([start for start, _ in row.texts], device=ids.device)
        places = (first + torch.arange(kept, device=ids.device)).clamp(max=row.ids.shape[1] - 1)
        # A reference model computes no entropies.
        values = (out.log_probs, out.log_probs if out.entropy is None else out.entropy)
        return [value[0, places].masked_fill(mask[:, -kept:] == 0, 0) for value in values]

    def _decide(self) -> bool:
        asked = self.args.share_prompts  # type: ignore[attr-defined]
        reason = self._why_plain() if asked else ""
        if reason and asked is True:
            raise UserError(f"rl.share_prompts: true found, but {reason}")
        if reason:
            say(f"rl: a prompt is computed for each of its rollouts: {reason}")
        return bool(asked) and not reason

    def _why_plain(self) -> str:
        """Why prompts can't be shared; if they can, the models attend as is needed from here on."""
        batch, group = self.args.per_device_train_batch_size, int(self.num_generations or 1)
        if batch % group:
            return f"rl.per_device_train_batch_size {batch} is no multiple of {group} generations"
        if self.aux_loss_enabled:
            return "its experts have a loss of their own"
        for each in filter(None, (self.ref_model, self.model)):
            model = self.accelerator.unwrap_model(each)
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            before, trains = model.config._attn_implementation, model.training
            if before != "sdpa" and "flash" not in before:
                return f"model.attn_implementation is {before}, expected sdpa or flash attention"
            model.set_attn_implementation(ATTENTION)
            reason = why_not(model.eval())
            model.train(trains)
            if reason:
                model.set_attn_implementation(before)
                return reason
        return ""


def _each(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return {n: change(v) if isinstance(v, torch.Tensor) and v.ndim else v for n, v in batch.items()}
