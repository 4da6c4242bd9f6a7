"""Supervised training of the backbone on the verified examples."""

import sys
from dataclasses import asdict

from alignxplore_trl.launch.config import ColdStartConfig
from alignxplore_trl.launch.entry import run_recipe, upstream_folder
from alignxplore_trl.run.errors import UserError
from alignxplore_trl.run.folder import RunFolder


def main(config: ColdStartConfig, folder: RunFolder) -> None:
    """Train and save the model; an interrupted run goes on from its last checkpoint."""
    # Imported here, so that a mistake in the command line is answered at once.
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer, set_seed
    from trl import SFTConfig

    from alignxplore_trl.launch.training import (
        adapters,
        callbacks,
        load_policy,
        train_and_save,
        trainer_arguments,
    )
    from alignxplore_trl.training.cold_start import ColdStartTrainer, fit_examples
    from alignxplore_trl.training.throughput import ThroughputSettings

    set_seed(config.seed)
    arguments = trainer_arguments(SFTConfig, config, folder)
    tokenizer = AutoTokenizer.from_pretrained(config.model.backbone)
    file = {"verified": "examples.parquet", "unverified": "unverified.parquet"}[config.examples]
    path = upstream_folder(config, "synthesize") / file
    if not path.is_file():
        raise UserError(
            f"examples: {config.examples} found, but {path} isn't there: published examples come "
            "with verified ones only"
        )
    written = pq.read_table(path).to_pylist()
    examples, counts = fit_examples(written, tokenizer, config.trainer["max_length"])
    trainer = ColdStartTrainer(
        model=load_policy(config.model, config.model.backbone),
        args=arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        throughput=ThroughputSettings(**asdict(config.throughput)),
        callbacks=callbacks(folder),
        peft_config=adapters(config.peft),
    )
    figures = train_and_save(trainer, tokenizer, folder, config)
    folder.finish({f"data/{name}": count for name, count in counts.items()} | figures)


if __name__ == "__main__":
    run_recipe(ColdStartConfig, main, sys.argv[1:])
