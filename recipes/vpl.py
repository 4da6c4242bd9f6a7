"""VPL, trained on the RL users: a method that judges by itself, to compare with."""

import sys
from collections.abc import Mapping

from alignxplore_trl.launch.config import VplConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.folder import RunFolder
from alignxplore_trl.run.metrics import append_metrics


def main(config: VplConfig, folder: RunFolder) -> None:
    """Embed the users' pairs once, train, and save; an interrupted run starts anew."""
    # Imported here, so that a mistake in the command line is answered at once.
    from accelerate import PartialState
    from transformers import set_seed

    from alignxplore_trl.baselines.vpl import PairEmbedder, Vpl, VplModel
    from alignxplore_trl.data.sources import read_split
    from alignxplore_trl.text.rendering import PromptSet
    from alignxplore_trl.training.vpl import embed_users, train

    asked, device = config.vpl, PartialState().device
    set_seed(config.seed)
    prepared = upstream_folder(config, "prepare")
    embedder = PairEmbedder.from_folder(
        config.model.backbone,
        PromptSet(config.prompts.folder),
        dtype=config.model.dtype,
        device=device,
        max_batch_tokens=asked.max_batch_tokens,
    )
    users = embed_users(read_split(prepared, "rl"), embedder, asked.fewest_pairs)
    model = VplModel(
        language_model=config.model.backbone,
        prompts=config.prompts.folder,
        embedding_size=embedder.size,
        hidden_size=asked.hidden_size,
        latent_size=asked.latent_size,
    ).to(device)
    folder.metrics.unlink(missing_ok=True)

    def report(step: int, values: Mapping[str, float]) -> None:
        append_metrics(folder.metrics, {"step": step, **values})

    steps = train(
        model,
        users.pairs,
        learning_rate=asked.learning_rate,
        warmup_share=asked.warmup_share,
        weight_decay=asked.weight_decay,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        kl_weight=asked.kl_weight,
        kl_cycle_steps=asked.kl_cycle_steps,
        kl_floor=asked.kl_floor,
        fewest_pairs=asked.fewest_pairs,
        most_pairs=asked.most_pairs,
        report=report,
    )
    model.save_pretrained(folder.model)
    decisions = Vpl(model, embedder).decide(read_split(prepared, "validation"))
    decided = [each.probability_chosen for each in decisions if each.probability_chosen is not None]
    right = sum(probability > 0.5 for probability in decided)
    folder.finish(
        {
            **{f"data/{name}": count for name, count in users.counts.items()},
            "steps": steps,
            "validation/cases": len(decided),
            "validation/accuracy": right / len(decided) if decided else None,
        }
    )


if __name__ == "__main__":
    run_recipe(VplConfig, main, sys.argv[1:])
